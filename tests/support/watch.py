"""Observes a server process from outside."""

import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from ovms_local.testing import RunningServer
from tests.support import log_lines


def until(condition: Callable[[], object], timeout_s: float = 60, process: subprocess.Popen | None = None) -> float:
    """Wait for a condition without a notification; return the seconds it took.

    TimeoutError if it does not become true, ChildProcessError if the process that is to make it true ends first.
    """
    started = time.monotonic()
    while not condition():
        if process is not None and process.poll() is not None:
            raise ChildProcessError(f"the process ended with {process.returncode}")
        if time.monotonic() - started > timeout_s:
            raise TimeoutError(f"still not so after {timeout_s} s")
        threading.Event().wait(0.005)
    return time.monotonic() - started


def processes(server: RunningServer) -> list[psutil.Process]:
    """Return the server's own process and, with GenAI's engine, the one that generates."""
    process = psutil.Process(server.process.pid)
    return [process, *process.children(recursive=True)]


def generated(server: RunningServer) -> list[int]:
    """Return the token counts of all ended generations, from the server's log, in order."""
    return [int(count) for count in log_lines.GENERATED.findall(server.log)]


def asked(server: RunningServer) -> int:
    """Return how many requests with one prompt have arrived, from the server's log at DEBUG."""
    return server.log.count(log_lines.ONE_PROMPT)


def resident_mb(server: RunningServer) -> float:
    """Return the server's current memory in MB."""
    return sum(process.memory_info().rss for process in processes(server)) / 1e6


def peak_mb(server: RunningServer) -> float:
    """Return the sum of the peaks of the server's processes in MB."""
    status = [Path(f"/proc/{process.pid}/status").read_text() for process in processes(server)]
    return sum(int(re.search(r"^VmHWM:\s+(\d+) kB$", text, re.MULTILINE)[1]) for text in status) * 1024 / 1e6


def threads(server: RunningServer) -> int:
    """Return the server's current number of threads."""
    return sum(process.num_threads() for process in processes(server))


def processor_seconds(server: RunningServer) -> float:
    """Return the CPU time that the server has used so far, on all cores."""
    times = [process.cpu_times() for process in processes(server)]
    return sum(own.user + own.system for own in times)


def until_idle(server: RunningServer) -> None:
    """Wait until the server is idle."""

    def idle() -> bool:
        before = processor_seconds(server)
        threading.Event().wait(0.2)
        return processor_seconds(server) - before < 0.03

    until(idle)
