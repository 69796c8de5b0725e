"""What the tests of everything around a model server share."""

import re
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
START_SECONDS = 60
# What a pod needs from the start of its preStop hook on: the hook's longest time, its last look at the metrics, the
# 5 s that the server leaves its gRPC calls after SIGTERM, and as much again to unload.
DRAIN_SECONDS = int(re.search(r"DEADLINE_SECONDS = (\d+)", (ROOT / "deploy/image/drain.py").read_text())[1])
GRACE_SECONDS = DRAIN_SECONDS + 5 + 5 + 5


def wait_until(condition: Callable[[], bool], process: subprocess.Popen, what: str) -> None:
    """Poll until `condition()` holds; fail when `process` ends or START_SECONDS have passed before."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if process.poll() is not None:
            pytest.fail(f"{what}: the process ended with {process.returncode}")
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not after {START_SECONDS} s")
        time.sleep(0.05)


def answers(url: str) -> bool:
    """Whether a GET of this URL has status 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False
