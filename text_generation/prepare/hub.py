"""Downloads checkpoints from the Hugging Face Hub.

HF_TOKEN, HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE and other settings are handled by huggingface_hub:
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
    require_more_than_adapter,
)
from text_generation.prepare.hub_errors import explained
from text_generation.prepare.machine import require_disk

# Data only: no Python files, no pickled weights, nothing from subfolders. The large files are downloaded last.
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
    """Download a repository's checkpoint or OpenVINO model into the Hub's cache, unless it is there already.

    `describe` is called with the folder once all but the large files are there, and raises if the large ones should not
    be downloaded. `destination` is where the model will be written: disk space for it and for the remaining download is
    checked first. Every file is checked against the size and hash that the Hub reports.

    Raises CheckpointError, and MachineError if there is too little disk space.
    """
    token = get_token() or ""
    if not (token.isascii() and token.isprintable()):
        raise CheckpointError("HF_TOKEN contains invalid characters: copy the token again, or unset it")
    plan = _plan(repository, revision)
    if plan is None:
        folder = _find_in_cache(repository, revision)
        describe(folder)
        return Checkpoint(folder, f"{repository}@{folder.name}")
    large = [file for file in plan if any(fnmatch(file.filename, pattern) for pattern in LARGE_FILES)]
    _remove_dead_downloads(repository)
    folder = _fetch(repository, revision, [file for file in plan if file not in large])
    describe(folder)
    if not large:
        require_more_than_adapter(folder)
        raise CheckpointError(
            f"{repository} lacks a required file: its weights, in safetensors format or as an OpenVINO model "
            "(pickled .bin weights are not read, because they can run code); use another revision or repository"
        )
    missing = sum(file.file_size for file in large if file.will_download)
    size = sum(file.file_size for file in large) * 4 // _itemsize(folder)
    require_disk([(Path(constants.HF_HUB_CACHE), missing), (destination, size)])
    _fetch(repository, revision, large)
    return Checkpoint(folder, f"{repository}@{folder.name}")


def _plan(repository: str, revision: str) -> list[DryRunFileInfo] | None:
    """List the files to download; None if the Hub is unreachable or disabled but the cache may have them."""
    with explained(repository, revision):
        with contextlib.suppress(RemoteEntryNotFoundError):
            hf_hub_download(repository, "config.json", revision=revision)  # its errors say more than a dry run's
        try:
            plan = snapshot_download(
                repository, revision=revision, dry_run=True, allow_patterns=FILES, ignore_patterns=SUBFOLDERS
            )
        except DryRunError:
            return None
    plan.sort(key=lambda file: file.filename)
    names = {file.filename for file in plan}
    if "openvino_model.xml" in names:  # then the checkpoint beside it is not needed
        return [file for file in plan if not fnmatch(file.filename, "model*.safetensors*")]
    if not names & {"config.json", "adapter_config.json"}:
        raise CheckpointError(
            f"{repository} lacks a required file: config.json of a checkpoint, or openvino_model.xml of an "
            "OpenVINO model; use the original model's repository, or another revision"
        )
    return plan


def _find_in_cache(repository: str, revision: str) -> Path:
    """Return the folder with the files in the cache, after checking them."""
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
    return folder


def _fetch(repository: str, revision: str, files: list[DryRunFileInfo]) -> Path:
    """Download these files into the cache and return their folder; in this thread, so that Ctrl-C ends it at once."""
    with explained(repository, revision):
        for file in files:
            path = Path(hf_hub_download(repository, file.filename, revision=file.commit_hash))
            _verify(repository, path)
        return path.parent


def _itemsize(folder: Path) -> int:
    """Return the bytes per weight in the files; 4, as in the result, for an OpenVINO model, which is only copied."""
    if is_exported(folder):
        return 4
    config = read_json(folder / "config.json")
    # Most published weights have 16 bits, so that is assumed if there is no dtype.
    return BYTES_PER_DTYPE.get(str(config.get("dtype", config.get("torch_dtype"))), 2)


def page(repository: str) -> str:
    """Return the URL of a repository on the Hub, or on its substitute (HF_ENDPOINT)."""
    return f"{constants.ENDPOINT}/{repository}"


def _remove_dead_downloads(repository: str) -> None:
    """Remove what killed downloads left in the cache; huggingface_hub 1.21 neither resumes nor removes it."""
    cache = Path(constants.HF_HUB_CACHE)
    name = repo_folder_name(repo_id=repository, repo_type="model")
    for partial in (cache / name / "blobs").glob("*.incomplete"):
        lock = cache / ".locks" / name / f"{partial.name.partition('.')[0]}.lock"
        with contextlib.suppress(Timeout), FileLock(lock, blocking=False):  # if locked, another run is downloading it
            partial.unlink(missing_ok=True)


def _verify(repository: str, path: Path) -> None:
    """Check a file of the cache against its hash: SHA-256 for the Hub's large files, Git's blob hash for others.

    The cache stores a file under its hash and links to it by name. Without symlinks (on some file systems, or with
    HF_HUB_DISABLE_SYMLINKS) it stores the file only by name, and the hash is requested from the Hub.

    huggingface_hub's verify_repo_checksums can't replace this: it requests all hashes from the Hub each time, so it
    doesn't work offline.
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
            f"{constants.ENDPOINT} provides no hash to check {path.name}: use another HF_ENDPOINT, or give the "
            "checkpoint's folder with --source"
        )
    with path.open("rb") as file:
        hashlib.file_digest(file, lambda: digest)
    if digest.hexdigest() != expected:
        path.unlink()
        (path.parents[2] / "blobs" / expected).unlink(missing_ok=True)
        raise CheckpointError(f"{path.name} is damaged (its hash is wrong) and has been removed: run this again")
