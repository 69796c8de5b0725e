"""The model folder: what the two model commands write and the servables read.

A folder is complete or it is not there. It is written under a hidden name beside its final one, flushed to the disk and
renamed, and `model_info.json` records the size of every file, so that a folder that lost a part of itself on the way
(an interrupted copy, a full disk) is found in milliseconds instead of by a crash while the weights are loaded. Folders
that others made, such as `optimum-cli export openvino`, have no such record; they are judged by their IR alone.
"""

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from text_generation import ir
from text_generation.ir import Ir

MODEL_INFO = "model_info.json"
LOCK = "lock"
NEEDED_FILES = (
    "openvino_model.xml",
    "openvino_model.bin",
    "openvino_tokenizer.xml",
    "openvino_tokenizer.bin",
    "openvino_detokenizer.xml",
    "openvino_detokenizer.bin",
    "tokenizer.json",
    "tokenizer_config.json",
    "config.json",
    "generation_config.json",
)
# What some architectures call a size in config.json; transformers has this as the attribute_map of each.
SIZE_NAMES = {
    "hidden_size": ("n_embd", "d_model", "emb_dim"),
    "max_position_embeddings": ("n_positions", "max_seq_len", "context_length", "n_ctx", "seq_length"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads", "attention_heads"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
}
# transformers' model_max_length of a tokenizer without one is 10^30.
NO_LENGTH = 10**9


class ModelFolderError(ValueError):
    """A model folder that cannot be used or written; the message is one line that says what to do."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What made a model folder: model and precision, where the checkpoint came from, the releases of the packages that
    did the work, and the size of each file in bytes."""

    model: str
    precision: str
    source: str
    packages: dict[str, str]
    files: dict[str, int]


def read(folder: Path) -> ModelInfo | None:
    """Read the folder's model_info.json; None where there is none, as in a folder that optimum-cli made.

    Raises ModelFolderError if the file cannot be read or says something else than it should.
    """
    path = folder / MODEL_INFO
    try:
        return TypeAdapter(ModelInfo).validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelFolderError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    except ValidationError as error:
        raise ModelFolderError(f"{path} is damaged: copy or make the folder again") from error


def check(folder: Path) -> ModelInfo | None:
    """Check that the folder holds a complete model that can generate, without loading it, and return what `read` does.

    Raises ModelFolderError naming the file that is missing, truncated or unreadable, and where the model's IR is one
    that keeps no key-value cache.
    """
    if not folder.is_dir():
        raise ModelFolderError(f"{folder} is not a folder: give the folder that download_model.py made")
    info = read(folder)
    sizes = dict.fromkeys(NEEDED_FILES) | (info.files if info else {})
    for name, expected in sizes.items():
        path = folder / name
        try:
            with path.open("rb"):
                size = path.stat().st_size
        except FileNotFoundError:
            raise ModelFolderError(f"{path} is missing: copy or make the folder again") from None
        except OSError as error:
            raise ModelFolderError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
        if size != expected and (expected is not None or size == 0):
            wanted = f"{expected:,}" if expected is not None else "some"
            raise ModelFolderError(f"{path} has {size:,} bytes instead of {wanted}: copy or make the folder again")
    model = read_ir(folder)
    weights = folder / "openvino_model.bin"
    if weights.stat().st_size < model.weights_bytes:
        raise ModelFolderError(f"{weights} is truncated: copy or make the folder again")
    return info


def read_ir(folder: Path) -> Ir:
    """What the folder's IR says of itself.

    Raises ModelFolderError where it is damaged, or stateless: without a key-value cache of its own it can't be served.
    """
    path = folder / "openvino_model.xml"
    try:
        model = ir.parse(path.read_bytes())
    except OSError as error:
        raise ModelFolderError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    if model is None:
        raise ModelFolderError(f"{path} is damaged: copy or make the folder again")
    if not model.stateful:
        raise ModelFolderError(
            f"{path} is a stateless model, which keeps no key-value cache and can't be served: export it again with "
            "download_model.py, or with optimum-cli's --task text-generation-with-past and no --disable-stateful"
        )
    return model


def config_size(folder: Path, name: str) -> int:
    """A size that the folder's config.json says the model has, under the name that most have for it: `vocab_size`.

    Raises ModelFolderError if no such number stands there.
    """
    size = _config_size(folder, name)
    if size is None:
        raise ModelFolderError(f"{folder / 'config.json'} is damaged (no {name} in it): copy or make the folder again")
    return size


def context_length(folder: Path) -> int:
    """How many tokens prompt and completion may have together, by config.json or, where a model has no positions to run
    out of, by its tokenizer_config.json.

    Raises ModelFolderError if neither says so.
    """
    size = _config_size(folder, "max_position_embeddings")
    if size is None:
        length = read_json(folder / "tokenizer_config.json").get("model_max_length")
        if isinstance(length, bool) or not isinstance(length, int | float) or not 0 < length < NO_LENGTH:
            raise ModelFolderError(
                f"{folder} does not say how long a context its model has: put max_position_embeddings into config.json"
            )
        size = int(length)
    return size


def _config_size(folder: Path, name: str) -> int | None:
    config = read_json(folder / "config.json")
    sizes = (config.get(known) for known in (name, *SIZE_NAMES.get(name, ())))
    return next((size for size in sizes if type(size) is int and size > 0), None)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model folder; empty where there is no such file.

    Raises ModelFolderError if it cannot be read or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFolderError(
            f"{path} can't be read ({' '.join(str(error).split())}): copy or make the folder again"
        ) from error
    if not isinstance(content, dict):
        raise ModelFolderError(f"{path} is damaged (no JSON object): copy or make the folder again")
    return content


@contextmanager
def staged(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give an empty folder to write into, which becomes `folder` if the block succeeds and vanishes if it does not.

    What the block leaves must be a complete model folder, model_info.json included. It lies beside `folder` under
    `.NAME.partial`, with a lock that ends with the process that holds it, so what a killed run left behind is cleared
    by the next one and never by one that is still at work. With `replace` an existing folder is moved aside once the
    new one is complete and on the disk; a kill between the two renames is undone by the next run.

    Raises ModelFolderError if `folder` exists and is not to be replaced, or holds something else than a model, if it is
    a symlink to nothing, or if another process is writing it.
    """
    if folder.is_symlink() and not folder.exists():
        raise ModelFolderError(f"{folder} is a symlink to nothing: remove it, or make the folder that it leads to")
    partial = _partial(folder)
    with _locked(partial):
        # A new name each time, since a child of a killed run may still be writing under that run's.
        new, old = partial / f"new-{uuid.uuid4().hex[:8]}", partial / "old"
        _undo_swap(folder, old)
        for leftover in partial.iterdir():
            if leftover.is_dir() and not leftover.is_symlink():
                # What that child still writes goes with `partial`; `old` has to make room now.
                shutil.rmtree(leftover, ignore_errors=leftover != old)
            elif leftover.name != LOCK:
                leftover.unlink()
        if folder.exists() and not (replace and _is_ours_to_replace(folder)):
            raise exists_error(folder)
        new.mkdir()
        yield new
        check(new)
        for path in (*new.rglob("*"), new):
            _flush(path)
        try:
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
        finally:
            _undo_swap(folder, old)
        _flush(folder.parent)


def recover(folder: Path) -> None:
    """Undo and clear what a killed run left beside `folder`, as `staged` does, where nothing is to be written.

    Raises ModelFolderError if another process is writing the folder.
    """
    partial = _partial(folder)
    if partial.exists():
        with _locked(partial):
            _undo_swap(folder, partial / "old")


@contextmanager
def fail_if_replaced(folder: Path, found: os.stat_result) -> Iterator[None]:
    """Run a block that reads a folder, which was `found` before.

    Raises ModelFolderError if another one has taken its place by the end, whatever the block itself raises: that comes
    of it.
    """
    try:
        yield
    finally:
        if not (folder.exists() and os.path.samestat(folder.stat(), found)):
            raise ModelFolderError(f"{folder} was replaced meanwhile: run this again")


def is_complete(folder: Path) -> bool:
    """Whether `check` has nothing to say against the folder."""
    try:
        check(folder)
    except ModelFolderError:
        return False
    return True


def exists_error(folder: Path) -> ModelFolderError:
    """The error for a folder that exists already; what it says depends on what the folder holds."""
    if not _is_ours_to_replace(folder):
        return ModelFolderError(
            f"{folder} exists and is not a model folder: move it away, or choose another --output-dir"
        )
    try:
        check(folder)
    except ModelFolderError as error:
        return ModelFolderError(f"{folder} exists but is incomplete ({error}): use --force to replace it")
    return ModelFolderError(f"{folder} exists and is complete: use --force to recreate it")


def write_info(folder: Path, *, model: str, precision: str, source: str, packages: dict[str, str]) -> None:
    """Write model_info.json into a folder whose other files are all there."""
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    info = ModelInfo(model, precision, source, packages, sizes)
    (folder / MODEL_INFO).write_text(json.dumps(asdict(info), indent=2) + "\n", encoding="utf-8")


def _is_ours_to_replace(folder: Path) -> bool:
    """Whether it is empty or holds at least a part of an OpenVINO model, and so not a checkpoint or somebody's work."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    return not names or not names.isdisjoint((MODEL_INFO, "openvino_model.xml", "openvino_model.bin"))


def _partial(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.partial"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make a folder that this process alone may use, and remove it with all that is in it."""
    lock_path = folder / LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = lock_path.open("w")
        except FileNotFoundError:
            continue  # the run before us has just removed its folder
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise ModelFolderError(f"{folder} is in use: another run is writing it, wait for its end") from None
        if lock_path.exists() and lock_path.stat().st_ino == os.fstat(lock.fileno()).st_ino:
            break
        lock.close()  # of a file that the run before us has removed
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def _undo_swap(folder: Path, old: Path) -> None:
    if old.exists() and not folder.exists():
        old.rename(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
