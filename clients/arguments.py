"""The flags that the clients share. argparse names the types in its own messages ("invalid seconds value")."""

import argparse

LONGEST_TIMEOUT_S = 1_000_000  # gRPC takes what goes beyond the year 2262 for a time that is over


def parser(description: str) -> argparse.ArgumentParser:
    """The flags of every client."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument(
        "--url",
        default="localhost:9000",
        type=address,
        metavar="HOST:PORT",
        help="the server's gRPC service (default: %(default)s)",
    )
    result.add_argument("--timeout", type=seconds, help="give up after this many seconds (default: wait)")
    result.add_argument(
        "--json", action="store_true", help="print an answer as one JSON object, with its counts and times"
    )
    return result


def parse_prompts(description: str) -> argparse.Namespace:
    """The command line of a client that asks questions in one request."""
    result = parser(description)
    result.add_argument("--model-name", default="python_model", type=text, help="the graph (default: %(default)s)")
    result.add_argument(
        "-p",
        "--prompt",
        action="append",
        required=True,
        dest="prompts",
        metavar="PROMPT",
        type=text,
        help="question for the model; give it several times to ask several questions in one request",
    )
    return result.parse_args()


def address(argument: str) -> str:
    """A flag's value as host:port; gRPC would go to other ports where there is none, or one that can't be."""
    host, _, port = text(argument).rpartition(":")
    other_protocol = host.startswith(("http://", "https://", "grpc://"))  # dns:///host:port is gRPC's own
    if not (host and port.isdecimal() and 0 < int(port) < 65536) or other_protocol or any(map(str.isspace, host)):
        raise argparse.ArgumentTypeError("must be host:port, such as localhost:9000")
    return argument


def text(argument: str) -> str:
    """A flag's value that can be sent as UTF-8, as all text here is."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("must be text in UTF-8") from None
    return argument


def seconds(argument: str) -> float:
    """A flag's value as a time to wait."""
    value = float(argument)
    if not 0 < value <= LONGEST_TIMEOUT_S:
        raise argparse.ArgumentTypeError(f"must be more than 0 and at most {LONGEST_TIMEOUT_S:,} seconds")
    return value
