"""Makes imports of large libraries cheaper."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Transformers imports it where it is installed, for a way of decoding that nothing here uses.
NEEDLESS = "sklearn"


def hide(module: str) -> None:
    """Make a module impossible to import from now on, unless it has been: libraries that do not need it may spend
    seconds on importing it where it is installed."""
    sys.modules.setdefault(module, None)  # type: ignore[arg-type]  # makes Python refuse to import it


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import Optimum, Transformers and PyTorch in a quarter less time: without what is needless, and without the search
    for garbage, as modules stay."""
    collecting = gc.isenabled()
    gc.disable()
    hide(NEEDLESS)
    try:
        yield
    finally:
        if sys.modules[NEEDLESS] is None:
            del sys.modules[NEEDLESS]  # other servables of this process may need it
        if collecting:
            gc.enable()
