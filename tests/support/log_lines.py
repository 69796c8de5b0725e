"""The log lines that tests search for, each defined once."""

import re

STOPPING = "stopping: running requests have "
STOPPED = "server: stopped"
A_NODE_IS_CUT_OFF = "exiting although a node is still running"
GRAPHS_STAY = "the graphs are left unchanged: "
REQUEST_REFUSED = "request refused: "
MODEL_IS_READY = " is ready (ENGINE="
BUSY = "; busy; "  # the end of a request that got no place
CANCELLED = "; cancelled; "
# Logged with LOG_LEVEL=DEBUG when the prompts have been read, before they wait for a place.
ONE_PROMPT = " 1 prompt: ["
GENERATED = re.compile(r"\d+ prompts?: (\d+) tokens? generated in")


def graph_is(state: str, name: str) -> str:
    """`state` is ready, being reloaded, retired or not available."""
    return f"graph {name} is {state}"


def listens(protocol: str, port: int) -> str:
    """The line of a transport that listens on localhost."""
    return f"{protocol} listens on 127.0.0.1:{port}"


def is_open(protocol: str) -> str:
    """The warning of a server that other machines can reach."""
    return f"{protocol} is open to other machines"
