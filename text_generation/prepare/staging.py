"""Writes model folders: under a hidden name next to the final one, flushed to disk and renamed."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from text_generation.model_folder import MODEL_INFO, ModelFolderError, check
from text_generation.prepare.checkpoint import CheckpointError
from text_generation.prepare.machine import MachineError


@contextmanager
def staged(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder to write into, which becomes `folder` if the block succeeds and is removed if it fails.

    The block must leave a complete model folder, including model_info.json. The new folder lies next to `folder` in
    `.NAME.partial`, under a lock that is released when the process ends: leftovers of a killed run are removed by the
    next one, but never while a run is still at work. With `replace`, an existing folder is moved aside once the new one
    is complete and on disk; if the process is killed between the two renames, the next run undoes the first.

    Raises ModelFolderError if `folder` exists and may not be replaced or is not a model folder, if it is a dangling
    symlink, or if another process is writing it.
    """
    if folder.is_symlink() and not folder.exists():
        raise ModelFolderError(f"{folder} is a dangling symlink: remove it, or create the folder that it points to")
    with _workspace(folder) as partial:
        # A new name each time, because a child of a killed run may still be writing under that run's name.
        new, old = partial / f"new-{uuid.uuid4().hex[:8]}", partial / "old"
        _settle_swap(folder, old)
        for leftover in partial.iterdir():
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)  # what such a child still writes goes with `partial`
            else:
                leftover.unlink()
        if folder.exists() and not (replace and _is_ours_to_replace(folder)):
            raise exists_error(folder)
        new.mkdir()
        try:
            yield new
            check(new)
        except (CheckpointError, MachineError, ModelFolderError) as error:  # the user knows only the final name
            raise type(error)(str(error).replace(str(new), str(folder))) from error
        for path in (*new.rglob("*"), new):
            _flush(path)
        try:
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
        finally:
            _settle_swap(folder, old)
        _flush(folder.parent)


def recover(folder: Path) -> None:
    """Undo and remove what a killed run left next to `folder`, like `staged`, but without writing a folder.

    Raises ModelFolderError if another process is writing the folder.
    """
    if _partial(folder).exists() or _lock(folder).exists():
        with _workspace(folder) as partial:
            _settle_swap(folder, partial / "old")


@contextmanager
def fail_if_replaced(folder: Path, status_before: os.stat_result) -> Iterator[None]:
    """Run a block that reads a folder; `status_before` is the folder's status before the block.

    Raises ModelFolderError if the folder has been replaced by the end of the block. It takes precedence over an error
    of the block, which is then a consequence.
    """
    try:
        yield
    finally:
        if not (folder.exists() and os.path.samestat(folder.stat(), status_before)):
            raise ModelFolderError(f"{folder} was replaced while it was in use: run this again")


def exists_error(folder: Path) -> ModelFolderError:
    """Return the error for a folder that already exists, worded for what it holds."""
    if not _is_ours_to_replace(folder):
        return ModelFolderError(
            f"{folder} exists and is not a model folder: move it away, or choose another --output-dir"
        )
    try:
        check(folder)
    except ModelFolderError as error:
        return ModelFolderError(f"{folder} exists but is incomplete ({error}): use --force to replace it")
    return ModelFolderError(f"{folder} exists and is complete: use --force to recreate it")


def _is_ours_to_replace(folder: Path) -> bool:
    """Whether the folder is empty or has a file of an OpenVINO model; if not, it may be a checkpoint or user files."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    return not names or not names.isdisjoint((MODEL_INFO, "openvino_model.xml", "openvino_model.bin"))


def _partial(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.partial"


def _lock(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.partial.lock"


@contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    """Create the folder next to `folder` that only this process may use, and remove it with its content at the end."""
    partial, lock = _partial(folder), _lock(folder)
    try:
        # A failed attempt is repeated only if the lock's file is gone, because then the previous run has just ended.
        lock_held = FileLock(lock, timeout=5, fallback_to_soft=False).acquire(cancel_check=lock.exists)
    except Timeout:
        raise ModelFolderError(f"{partial} is in use: another run is writing it; wait until it ends") from None
    with lock_held:
        try:
            partial.mkdir(exist_ok=True)
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _settle_swap(folder: Path, old: Path) -> None:
    """Put the old folder back if no new one has taken its place; otherwise rename it, for its removal.

    Killed while it removes the old folder, a run would otherwise leave half of it to be put back by the next.
    """
    if old.exists():
        old.rename(old.with_name(f"replaced-{uuid.uuid4().hex[:8]}") if folder.exists() else folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
