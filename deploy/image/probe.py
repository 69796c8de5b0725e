"""Health check: asks the model server in this container over gRPC whether it is live or ready.

Over REST, a probe could wait behind an answer that is being generated: the system assigns a new connection to any REST
worker, even a busy one.
`python3.12 probe.py` checks whether the server is live, `python3.12 probe.py GRAPH` whether the graph is ready.
"""

import sys

import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

URL = "localhost:9000"
TIMEOUT_SECONDS = 5


def main(graph=None):
    """Exit with code 0 if the server is live or `graph` is ready, else with an error and code 1."""
    # Through a proxy, which containers may have in their environment, localhost is another machine.
    client = grpcclient.InferenceServerClient(URL, channel_args=[("grpc.enable_http_proxy", 0)])
    try:
        if graph is None:
            good = client.is_server_live(client_timeout=TIMEOUT_SECONDS)
        else:
            good = client.is_model_ready(graph, client_timeout=TIMEOUT_SECONDS)
    except InferenceServerException as error:
        sys.exit(f"error: {URL}: {error.message()}")
    if not good:
        sys.exit(f"error: {URL}: {graph or 'the server'} is not ready")


if __name__ == "__main__":
    main(*sys.argv[1:])
