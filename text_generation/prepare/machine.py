"""Free disk space and memory of the machine, checked before work starts that would not fit."""

import errno
import shutil
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


class MachineError(Exception):
    """Too little disk space or memory for the task; the message is one line with the needed and the free size."""


def gigabytes(size: float) -> str:
    """Format a size in bytes, as in 4.4 GB or 545 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def require_disk(needs: list[tuple[Path, int]]) -> None:
    """Check that each folder's disk has the given number of bytes free, summed for folders on the same disk.

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
                f"too little disk space: {gigabytes(totals[device])} needed at {folder}, {gigabytes(free)} free; "
                "make room or choose another place"
            )


def available_memory() -> int:
    """Return how many bytes this process may still use, given the machine and the container's limit (cgroup v2)."""
    available: int = psutil.virtual_memory().available
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        statistics = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return available  # not in a container, or in one without a limit ("max")
    return min(available, limit - used + int(statistics["inactive_file"]))


def is_failed_write(error: Exception) -> bool:
    """Whether an error means that a write failed for lack of space: a full disk, a quota, or a file size limit."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return "iostream error" in str(error)  # how openvino.save_model puts it, as a RuntimeError
