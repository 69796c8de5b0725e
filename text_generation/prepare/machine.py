"""What the machine has left: free disk and memory, asked for before something is started that would not fit."""

import errno
import shutil
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


class MachineError(Exception):
    """The machine lacks disk or memory for the task; the message is one line with both numbers."""


def gigabytes(size: float) -> str:
    """A size in bytes as people read it: 4.4 GB, 545 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def require_disk(needs: list[tuple[Path, int]]) -> None:
    """Check that each folder's disk has room for the given bytes, added up where folders share a disk.

    The folders need not exist yet. Raises MachineError.
    """
    totals: dict[int, int] = {}
    for folder, size in needs:
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        device = existing.stat().st_dev
        totals[device] = totals.get(device, 0) + size
        free = shutil.disk_usage(existing).free
        if free < totals[device]:
            raise MachineError(
                f"too little disk: {gigabytes(totals[device])} are needed at {folder} and {gigabytes(free)} are free; "
                "make room or choose another place"
            )


def available_memory() -> int:
    """Bytes that this process may still take, by the machine and by the container's limit (cgroup version 2)."""
    available: int = psutil.virtual_memory().available
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        statistics = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return available  # no container, or one without a limit ("max")
    return min(available, limit - used + int(statistics["inactive_file"]))


def is_failed_write(error: Exception) -> bool:
    """Whether an error means that the disk took no more: full, over a quota or a limit on the size of files."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return "iostream error" in str(error)  # how openvino.save_model puts it, as a RuntimeError
