"""Code shared by the deployment tests."""

import re
import urllib.request

from ovms_local.testing import RunningServer
from tests.support import ROOT

SERVABLE = ROOT / "tests" / "deploy" / "servable"
# The time a pod needs from the start of its preStop hook: the hook's maximum, its last request for metrics, the
# 5 s that the server gives its gRPC calls after SIGTERM, and the same again to unload.
DRAIN_SECONDS = int(re.search(r"DEADLINE_SECONDS = (\d+)", (ROOT / "deploy/image/drain.py").read_text())[1])
GRACE_SECONDS = DRAIN_SECONDS + 5 + 5 + 5


def calls_inside(server: RunningServer, graph: str) -> int:
    """Return the number of running calls of this graph; the server needs --metrics_enable."""
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
