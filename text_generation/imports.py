"""Makes large libraries cheaper to import and to share a machine with."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Transformers imports it where it is installed, for a way of decoding that nothing here uses.
NEEDLESS = "sklearn"


def hide(module: str) -> None:
    """Make a module impossible to import from now on, unless it has been: libraries that do not need it may spend
    seconds on importing it where it is installed."""
    sys.modules.setdefault(module, None)  # type: ignore[arg-type]  # makes Python refuse to import it


def sleep_while_waiting() -> None:
    """Let the threads of PyTorch (OpenMP) and NumPy (OpenBLAS) sleep while they wait for work or for each other.

    By default they wait in a loop that keeps their core busy. Where other programs use the cores, an export then takes
    three times the processor time and twice as long. Call this before these libraries are imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # the shortest: 2 to this power processor cycles


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import Optimum, Transformers and PyTorch in a third less time: without what is needless, and without searching
    their objects for garbage. They stay, so later searches leave them out too: each would stop all threads for 0.3 s.
    """
    gc.collect()  # what is garbage already, such as a closed engine, would stay with the rest
    collecting, modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    hide(NEEDLESS)
    try:
        yield
    finally:
        if sys.modules[NEEDLESS] is None:
            del sys.modules[NEEDLESS]  # other servables of this process may need it
        if len(sys.modules) > modules:
            gc.freeze()
        if collecting:
            gc.enable()
