"""Wait until the model server has no request left: a Kubernetes preStop hook.

Kubernetes takes the pod out of its services while this runs, and ends the server only afterwards, so no answer is cut
off by a rollout. The server needs --rest_port 8000 and --metrics_enable; the pod's grace period bounds the wait.
`python3 drain.py [URL]`
"""

import sys
import time
import urllib.request

# Time for the endpoint's removal to reach every client and proxy: until then new requests may still come.
QUIET_SECONDS = 10
POLL_SECONDS = 1


def requests_running(metrics):
    """Return the number of graphs that are running, from the text of the server's Prometheus metrics."""
    lines = (line for line in metrics.splitlines() if line.startswith("ovms_current_graphs"))
    return sum(int(float(line.rsplit(maxsplit=1)[1])) for line in lines)


def main(url="http://localhost:8000/metrics"):
    """Return after QUIET_SECONDS in a row without a running request; exit code 1 when the server does not answer."""
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < QUIET_SECONDS:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                metrics = response.read().decode()
        except OSError as error:
            sys.exit(f"error: no metrics at {url}: {error}; start the server with --metrics_enable")
        if requests_running(metrics):
            quiet_since = time.monotonic()
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main(*sys.argv[1:])
