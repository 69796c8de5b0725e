"""Progress of work that reports none itself, measured by the size of the files that it writes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm


@contextmanager
def growth(path: Path, label: str, total: int | None = None) -> Iterator[None]:
    """Show a progress bar with the size of a file or folder, which grows to `total` bytes while the block runs.

    Nothing is shown if standard error is not a terminal.
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
        return 0  # not created yet, or already removed
