"""Download of checkpoints from the Hugging Face Hub.

HF_TOKEN, HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE and its other settings are huggingface_hub's own:
https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
"""

import contextlib
import hashlib
import re
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

from filelock import FileLock, Timeout
from huggingface_hub import (
    DryRunFileInfo,
    constants,
    get_hf_file_metadata,
    get_token,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub.errors import DryRunError, RemoteEntryNotFoundError
from huggingface_hub.file_download import repo_folder_name

from text_generation.prepare.checkpoint import (
    BYTES_PER_DTYPE,
    QUANTIZATION_FILES,
    TOKENIZER_FILES,
    Checkpoint,
    CheckpointError,
    is_exported,
    read_json,
)
from text_generation.prepare.hub_errors import explained
from text_generation.prepare.machine import require_disk

# Data only: no Python files, no pickled weights, nothing from subfolders. Large is what is fetched last.
LARGE_FILES = ["model*.safetensors", "openvino_model.bin"]
SMALL_FILES = [
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "openvino_model.xml",
    "openvino_tokenizer.*",
    "openvino_detokenizer.*",
    "adapter_config.json",
    "tokenizer.model",
    *QUANTIZATION_FILES,
    *TOKENIZER_FILES,
]
FILES, SUBFOLDERS = [*SMALL_FILES, *LARGE_FILES], "*/*"


def download(repository: str, revision: str, destination: Path, describe: Callable[[Path], None]) -> Checkpoint:
    """Download a repository's checkpoint, or its OpenVINO model, into the Hub's cache, or take it from there.

    `describe` is given the folder with all files but the large ones, and raises where they are not worth having.
    `destination` is where the model will be written: room for it and for what is still to be downloaded is checked
    before the download. Every file is checked against the size and the hash that the Hub gives for it.

    Raises CheckpointError, and MachineError if the disk is too small.
    """
    token = get_token() or ""
    if not (token.isascii() and token.isprintable()):
        raise CheckpointError("HF_TOKEN holds characters that no token has: copy the token again, or unset it")
    plan = _plan(repository, revision)
    if plan is None:
        with explained(repository, revision):
            folder = Path(
                snapshot_download(
                    repository,
                    revision=revision,
                    local_files_only=True,
                    allow_patterns=FILES,
                    ignore_patterns=SUBFOLDERS,
                )
            )
            for path in sorted(folder.iterdir()):
                if not path.is_dir():
                    _verify(repository, path)
        describe(folder)
        return Checkpoint(folder, f"{repository}@{folder.name}")
    large = [file for file in plan if any(fnmatch(file.filename, pattern) for pattern in LARGE_FILES)]
    _remove_dead_downloads(repository)
    folder = _fetch(repository, revision, [file for file in plan if file not in large])
    describe(folder)
    if not large:
        raise CheckpointError(
            f"{repository} lacks a file that is needed: its weights, in safetensors format or as an OpenVINO model "
            "(pickled .bin weights are not read, because they can run code); take another revision or repository"
        )
    missing = sum(file.file_size for file in large if file.will_download)
    size = sum(file.file_size for file in large) * 4 // _itemsize(folder)
    require_disk([(Path(constants.HF_HUB_CACHE), missing), (destination, size)])
    _fetch(repository, revision, large)
    return Checkpoint(folder, f"{repository}@{folder.name}")


def _plan(repository: str, revision: str) -> list[DryRunFileInfo] | None:
    """What there is to download; None where the Hub is not to be reached, or not to be asked, but the cache can do."""
    with explained(repository, revision):
        with contextlib.suppress(RemoteEntryNotFoundError):
            hf_hub_download(repository, "config.json", revision=revision)  # whose errors say more than a plan's
        try:
            plan = snapshot_download(
                repository, revision=revision, dry_run=True, allow_patterns=FILES, ignore_patterns=SUBFOLDERS
            )
        except DryRunError:
            return None
    plan.sort(key=lambda file: file.filename)
    names = {file.filename for file in plan}
    if "openvino_model.xml" in names:  # then it is the model, and a checkpoint beside it is not needed
        return [file for file in plan if not fnmatch(file.filename, "model*.safetensors*")]
    if not names & {"config.json", "adapter_config.json"}:
        raise CheckpointError(
            f"{repository} lacks a file that is needed: config.json of a checkpoint, or openvino_model.xml of an "
            "OpenVINO model; take the original model's repository, or another revision"
        )
    return plan


def _fetch(repository: str, revision: str, files: list[DryRunFileInfo]) -> Path:
    """Get these files into the cache, in this thread, so that an interrupt ends it at once; the folder they are in."""
    with explained(repository, revision):
        for file in files:
            path = Path(hf_hub_download(repository, file.filename, revision=file.commit_hash))
            _verify(repository, path)
        return path.parent


def _itemsize(folder: Path) -> int:
    """Bytes of a weight in the files, 4 where they stay as large as they are: an OpenVINO model is only copied."""
    if is_exported(folder):
        return 4
    config = read_json(folder / "config.json")
    # Without a dtype the weights are taken for 16 bits, as published ones mostly are.
    return BYTES_PER_DTYPE.get(str(config.get("dtype", config.get("torch_dtype"))), 2)


def page(repository: str) -> str:
    """The address of a repository, at the Hub or at what stands in for it (HF_ENDPOINT)."""
    return f"{constants.ENDPOINT}/{repository}"


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
