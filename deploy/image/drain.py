"""Wait until the model server has no request left: what runs before it gets SIGTERM, which cuts answers off after 5 s.

In Kubernetes it is the preStop hook: the pod leaves its services while this runs. `make down` runs it in the containers
of compose. The server needs --rest_port 8000 and --metrics_enable.
`python3.12 drain.py [URL]`
"""

import sys
import time
import urllib.request

# Time for the endpoint's removal to reach every client and proxy: until then new requests may still come.
QUIET_SECONDS = 10
# The longest answer, 1,024 tokens at 5 tokens/s, behind the longest wait for a place, QUEUE_TIMEOUT_S, and quiet.
DEADLINE_SECONDS = 280
POLL_SECONDS = 1
# A REST worker that generates an answer lets the metrics wait: another connection may come to one that is free.
TIMEOUT_SECONDS = 5


def requests_running(metrics):
    """Return the number of graphs that are running, from the text of the server's Prometheus metrics."""
    lines = (line for line in metrics.splitlines() if line.startswith("ovms_current_graphs"))
    return sum(int(float(line.rsplit(maxsplit=1)[1])) for line in lines)


def is_busy(url):
    """Whether a request is running, by the metrics at `url`; a server too busy to give them in time counts.

    Exits with a sentence where there is no server, or none that serves metrics.
    """
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
            return requests_running(response.read().decode()) > 0
    except (OSError, ValueError) as error:
        if isinstance(getattr(error, "reason", error), TimeoutError | ConnectionResetError):
            return True
        sys.exit(f"error: no metrics at {url}: {error}; start the server with --rest_port and --metrics_enable")


def main(url="http://localhost:8000/metrics"):
    """Return after QUIET_SECONDS in a row without a request; exit code 1 after DEADLINE_SECONDS with one."""
    started = quiet_since = time.monotonic()
    while (now := time.monotonic()) - quiet_since < QUIET_SECONDS:
        if now - started > DEADLINE_SECONDS:
            sys.exit(f"error: the server is still busy after {DEADLINE_SECONDS} s")
        if is_busy(url):
            quiet_since = time.monotonic()
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main(*sys.argv[1:])
