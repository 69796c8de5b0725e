"""The processor's cores, shared between the workers of pytest-xdist."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def worker_core() -> Iterator[None]:
    """Keep the processes started meanwhile on one core, which depends on the worker's number.

    Exports and compressions run thousands of short inferences. If two of them used the same cores, their threads would
    spend more time waiting for each other than computing. Not for servers: the kernel can starve their processes.
    """
    cores = os.sched_getaffinity(0)
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        os.sched_setaffinity(0, {sorted(cores)[int(worker.removeprefix("gw")) % len(cores)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
