"""What tests look for in a server's log, as a user would search it: each line's words stand here once."""

import re

STOPPING = "stopping: running requests have "
STOPPED = "server: stopped"
A_NODE_IS_CUT_OFF = "a node is still running: it is cut off"
GRAPHS_STAY = "the graphs stay as they are: "
REQUEST_REFUSED = "request refused: "
MODEL_IS_READY = " is ready (ENGINE="
BUSY = "; busy; "  # how a request ended that found no place
CANCELLED = "; cancelled; "
# With LOG_LEVEL=DEBUG, once the prompts are known and before they wait for a place.
ONE_PROMPT = " 1 prompts: ["
GENERATED = re.compile(r"\d+ prompts: (\d+) tokens generated in")


def graph_is(state: str, name: str) -> str:
    """`state` is ready, reloaded, retired or not available."""
    return f"graph {name} is {state}"


def listens(protocol: str, port: int) -> str:
    """On localhost."""
    return f"{protocol} listens on 127.0.0.1:{port}"


def is_open(protocol: str) -> str:
    """The warning of a server that other machines reach."""
    return f"{protocol} is open to other machines"
