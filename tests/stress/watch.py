"""What a server process looks like from outside."""

import re
import threading
import time
from collections.abc import Callable

from benchmarks.child import family
from ovms_local.testing import RunningServer

_GENERATED = re.compile(r"\d+ prompts: (\d+) tokens generated in")


def until(condition: Callable[[], object], timeout_s: float = 60) -> float:
    """Wait for a condition that nothing announces; the seconds it took. TimeoutError where it does not come true."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > timeout_s:
            raise TimeoutError(f"still not so after {timeout_s} s")
        threading.Event().wait(0.005)
    return time.monotonic() - started


def generated(server: RunningServer) -> list[int]:
    """Tokens of each generation that has ended, from the server's log, in order."""
    return [int(count) for count in _GENERATED.findall(server.log)]


def resident_mb(server: RunningServer) -> float:
    """Memory that the server holds now, in MB."""
    return sum(process.memory_info().rss for process in family(server.process.pid)) / 1e6


def threads(server: RunningServer) -> int:
    """Threads that the server has now."""
    return sum(process.num_threads() for process in family(server.process.pid))


def processor_seconds(server: RunningServer) -> float:
    """Processor time that the server has used so far, on all cores together."""
    times = [process.cpu_times() for process in family(server.process.pid)]
    return sum(own.user + own.system for own in times)


def until_idle(server: RunningServer) -> None:
    """Wait until the server does nothing any more."""

    def idle() -> bool:
        before = processor_seconds(server)
        threading.Event().wait(0.2)
        return processor_seconds(server) - before < 0.03

    until(idle)
