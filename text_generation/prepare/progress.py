"""Progress of work that reports none itself, seen in the files that it writes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm


@contextmanager
def growth(path: Path, label: str, total: int | None = None) -> Iterator[None]:
    """Show a bar with the size in bytes of a file or folder that grows to `total` while the block runs.

    Nothing is shown where standard error is not a terminal.
    """
    done = threading.Event()
    bar = tqdm(desc=label, total=total, unit="B", unit_scale=True, disable=None)

    def follow() -> None:
        while not done.wait(0.2):
            bar.update(_size(path) - bar.n)

    follower = threading.Thread(target=follow, daemon=True)
    with bar:
        follower.start()
        try:
            yield
            bar.total = total and _size(path)
        finally:
            done.set()
            follower.join()
        bar.update(_size(path) - bar.n)


def _size(path: Path) -> int:
    try:
        if path.is_dir():
            return sum(_size(child) for child in path.iterdir())
        return path.stat().st_size
    except FileNotFoundError:
        return 0  # not there yet, or no longer
