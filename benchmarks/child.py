"""A child process that takes requests and gives answers as lines of JSON."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent


class Child:
    """A child process that answers each line of JSON on its input with one on its output, and shares standard error."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None):
        self._command = command
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid

    def send(self, message: dict[str, Any]) -> None:
        """Send a request, without waiting for the answer."""
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Return the next answer; RuntimeError if the process has ended."""
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self._command)} ended with exit code {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def reset_peak_memory(pid: int) -> None:
    """Reset the peak memory of a process and its children (Linux: proc(5), clear_refs)."""
    for process in family(pid):
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")


def peak_memory(pid: int) -> int:
    """Return the peak resident bytes since the start or the last reset: the process's own peak plus its children's."""
    return 1024 * sum(_peak_kb(process.pid) for process in family(pid))


def family(pid: int) -> list[psutil.Process]:
    """Return a process and its children, such as a server and the process in which GenAI's engine generates."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def processor_seconds(process: psutil.Process) -> float:
    """Return the CPU time that a process has used so far, on all cores."""
    times = process.cpu_times()
    return times.user + times.system


def _peak_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise RuntimeError(f"process {pid} has ended")
