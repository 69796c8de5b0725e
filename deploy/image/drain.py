"""Waits until the model server has no request left; to be run before SIGTERM, after which answers are cut off in 5 s.

In Kubernetes this is the preStop hook, which runs while the pod is removed from its services. `make down` runs it in
the compose containers. The server needs --rest_port 8000 and --metrics_enable.
`python3.12 drain.py [URL]`
"""

import http.client
import sys
import time
import urllib.request

# Through a proxy, which containers may have in their environment, localhost is another machine.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
# Time for the endpoint's removal to reach every client and proxy: until then, new requests may still arrive.
QUIET_SECONDS = 10
# The longest answer, 1,024 tokens at 5 tokens/s, after the longest wait, QUEUE_TIMEOUT_S, plus the quiet time.
DEADLINE_SECONDS = 280
POLL_SECONDS = 1
# Metrics wait while their REST worker generates an answer; the next connection may go to a free worker.
TIMEOUT_SECONDS = 5


def requests_running(metrics):
    """Return the number of running graphs from the text of the server's Prometheus metrics."""
    lines = (line for line in metrics.splitlines() if line.startswith("ovms_current_graphs"))
    return sum(int(float(line.rsplit(maxsplit=1)[1])) for line in lines)


def is_busy(url):
    """Whether a request is running, according to the metrics at `url`, or the server is too busy to serve them in time.

    Exits with an error if there is no server or it serves no metrics.
    """
    try:
        with DIRECT.open(url, timeout=TIMEOUT_SECONDS) as response:
            return requests_running(response.read().decode()) > 0
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(getattr(error, "reason", error), TimeoutError | ConnectionResetError):
            return True
        sys.exit(f"error: no metrics at {url}: {error}; start the server with --rest_port and --metrics_enable")


def main(url="http://localhost:8000/metrics"):
    """Return after QUIET_SECONDS without a request; exit with code 1 if that does not happen in DEADLINE_SECONDS."""
    started = quiet_since = time.monotonic()
    while (now := time.monotonic()) - quiet_since < QUIET_SECONDS:
        if now - started > DEADLINE_SECONDS:
            sys.exit(f"error: the server is still busy after {DEADLINE_SECONDS} s")
        if is_busy(url):
            quiet_since = time.monotonic()
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main(*sys.argv[1:])
