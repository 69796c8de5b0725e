"""What the tests of everything around a model server share."""

import re
import urllib.request

from ovms_local.testing import RunningServer
from tests.support import ROOT

SERVABLE = ROOT / "tests" / "deploy" / "servable"
# What a pod needs from the start of its preStop hook on: the hook's longest time, its last look at the metrics, the
# 5 s that the server leaves its gRPC calls after SIGTERM, and as much again to unload.
DRAIN_SECONDS = int(re.search(r"DEADLINE_SECONDS = (\d+)", (ROOT / "deploy/image/drain.py").read_text())[1])
GRACE_SECONDS = DRAIN_SECONDS + 5 + 5 + 5


def calls_inside(server: RunningServer, graph: str) -> int:
    """Calls that this graph is at work on; the server has --metrics_enable."""
    with urllib.request.urlopen(f"{server.rest_url}/metrics", timeout=10) as response:
        metrics = response.read().decode()
    return int(float(re.search(rf'^ovms_current_graphs{{name="{graph}"}} (\S+)$', metrics, re.MULTILINE)[1]))


def answers(url: str) -> bool:
    """Whether a GET of this URL has status 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False
