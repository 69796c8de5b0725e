"""Download of checkpoints from the Hugging Face Hub.

HF_TOKEN, HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE and its other settings are huggingface_hub's own:
https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
"""

import contextlib
import hashlib
import re
from pathlib import Path

import httpx
from filelock import FileLock, Timeout
from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    get_token,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub.errors import (
    DryRunError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

from text_generation.errors import first_line
from text_generation.prepare.checkpoint import (
    BYTES_PER_DTYPE,
    Checkpoint,
    CheckpointError,
    parameter_count,
    read_config,
)
from text_generation.prepare.machine import is_failed_write, require_disk

# Data only: no Python files, no pickled weights, nothing from subfolders.
ALLOWED_FILES = [
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
]
FILES = {"allow_patterns": ALLOWED_FILES, "ignore_patterns": ["*/*"]}


def download(repository: str, revision: str, destination: Path) -> Checkpoint:
    """Download a repository's checkpoint into the Hub's cache, or take it from there.

    `destination` is where the FP32 model will be written: room for it and for what is still to be downloaded is checked
    before the download. Every file is checked against the size and the hash that the Hub gives for it.

    Raises CheckpointError, and MachineError if the disk is too small.
    """
    token = get_token() or ""
    if not (token.isascii() and token.isprintable()):
        raise CheckpointError("HF_TOKEN holds characters that no token has: copy the token again, or unset it")
    try:
        for name in ("config.json", "tokenizer_config.json"):
            config_path = Path(hf_hub_download(repository, name, revision=revision))
            _verify(repository, config_path)
        config = read_config(config_path.parent)
        try:
            plan = snapshot_download(repository, revision=revision, dry_run=True, **FILES)
        except DryRunError:  # offline or unreachable: what the cache holds must do
            folder = Path(snapshot_download(repository, revision=revision, local_files_only=True, **FILES))
        else:
            # Without a dtype the weights are taken for 16 bits, as published ones mostly are.
            itemsize = BYTES_PER_DTYPE.get(config.get("dtype", config.get("torch_dtype")), 2)
            weights = sum(file.file_size for file in plan if file.filename.endswith(".safetensors"))
            missing = sum(file.file_size for file in plan if file.will_download)
            require_disk([(Path(constants.HF_HUB_CACHE), missing), (destination, weights * 4 // itemsize)])
            _remove_dead_downloads(repository)
            for file in plan:  # in this thread, so that an interrupt ends it at once
                path = Path(hf_hub_download(repository, file.filename, revision=file.commit_hash))
            folder = path.parent
        for path in sorted(folder.iterdir()):
            if not path.is_dir():
                _verify(repository, path)
    except (HfHubHTTPError, EntryNotFoundError, httpx.HTTPError, OSError, RuntimeError) as error:
        if is_failed_write(error):
            raise
        raise CheckpointError(_explain(error, repository, revision)) from error
    parameter_count(folder)
    return Checkpoint(folder, f"{repository}@{folder.name}")


def page(repository: str) -> str:
    """The address of a repository, at the Hub or at what stands in for it (HF_ENDPOINT)."""
    return f"{constants.ENDPOINT}/{repository}"


def _explain(error: Exception, repository: str, revision: str) -> str:
    address = page(repository)
    match error:
        case GatedRepoError():
            return f"{repository} is gated: accept its terms at {address}, then set HF_TOKEN to a token of that account"
        case RepositoryNotFoundError():
            return f"{repository} is not at {constants.ENDPOINT}, or it is private: check the name, or set HF_TOKEN"
        case RevisionNotFoundError():
            return f"{repository} has no revision {revision!r}: see {address}/commits for those it has"
        case LocalEntryNotFoundError() if constants.HF_HUB_OFFLINE:
            return f"{repository} is not in the cache ({constants.HF_HUB_CACHE}): unset HF_HUB_OFFLINE to download it"
        case OfflineModeIsEnabled():  # which only the hashes are asked for in
            return (
                f"the cache ({constants.HF_HUB_CACHE}) has no symlinks, and so no hashes to check {repository} with: "
                "unset HF_HUB_OFFLINE, or give the checkpoint's folder with --source"
            )
        # RuntimeError: huggingface_hub 1.21 retries a refused connection on a client that it has closed
        case LocalEntryNotFoundError() | httpx.TransportError() | RuntimeError():
            return f"{constants.ENDPOINT} cannot be reached or broke off: check the network, then run this again"
        case EntryNotFoundError():
            return f"{repository} lacks a file that is needed ({first_line(error)}): use another revision"
        case HfHubHTTPError() if error.response.status_code in (401, 403):
            return f"{constants.ENDPOINT} refused the token: set HF_TOKEN to a valid one, or unset it"
        case _:
            return f"the download of {repository} failed ({first_line(error)}): run this again"


def _remove_dead_downloads(repository: str) -> None:
    """Remove what killed downloads left in the cache; huggingface_hub 1.21 never resumes them, nor removes them."""
    cache = Path(constants.HF_HUB_CACHE)
    name = repo_folder_name(repo_id=repository, repo_type="model")
    for partial in (cache / name / "blobs").glob("*.incomplete"):
        lock = cache / ".locks" / name / f"{partial.name.partition('.')[0]}.lock"
        with contextlib.suppress(Timeout), FileLock(lock, blocking=False):  # or else another run is downloading it
            partial.unlink(missing_ok=True)


def _verify(repository: str, path: Path) -> None:
    """Compare a file of the cache with its hash: SHA-256 for what the Hub calls large, Git's hash of a blob for others.

    The cache keeps a file under its hash, with a symlink to it, or, where there are no symlinks (some file systems, or
    HF_HUB_DISABLE_SYMLINKS), under its own name alone; the Hub is asked then.
    """
    expected = path.resolve().name
    if expected == path.name:
        expected = get_hf_file_metadata(hf_hub_url(repository, path.name, revision=path.parent.name)).etag or ""
    if re.fullmatch("[0-9a-f]{64}", expected):
        digest = hashlib.sha256()
    elif re.fullmatch("[0-9a-f]{40}", expected):
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    else:
        raise CheckpointError(
            f"{constants.ENDPOINT} gives no hash to check {path.name} with: use another HF_ENDPOINT, or give the "
            "checkpoint's folder with --source"
        )
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        path.unlink()
        (path.parents[2] / "blobs" / expected).unlink(missing_ok=True)
        raise CheckpointError(f"{path.name} is damaged (its hash is wrong) and has been removed: run this again")
