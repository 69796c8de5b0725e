"""The flags that the clients share. argparse uses the functions' names in its messages ("invalid seconds value")."""

import argparse

LONGEST_TIMEOUT_S = 1_000_000  # gRPC treats deadlines after the year 2262 as expired


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the flags of every client."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument(
        "--url",
        default="localhost:9000",
        type=address,
        metavar="HOST:PORT",
        help="the server's gRPC service (default: %(default)s)",
    )
    result.add_argument("--timeout", type=seconds, help="give up after this many seconds (default: never)")
    result.add_argument(
        "--json", action="store_true", help="print each answer as one JSON object, with its counts and times"
    )
    return result


def parse_prompts(description: str) -> argparse.Namespace:
    """Parse the command line of a client that asks all questions in one request."""
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
        help="question for the model; repeat the flag to ask several questions in one request",
    )
    return result.parse_args()


def address(argument: str) -> str:
    """Check that a flag's value is host:port; gRPC would use another port if it is missing or invalid."""
    host, _, port = text(argument).rpartition(":")
    other_protocol = host.startswith(("http://", "https://", "grpc://"))  # dns:///host:port is gRPC's own
    is_port = port.isascii() and port.isdecimal() and 0 < int(port) < 65536
    if not (host and is_port) or other_protocol or any(map(str.isspace, host)):
        raise argparse.ArgumentTypeError("must be host:port, such as localhost:9000")
    return argument


def text(argument: str) -> str:
    """Check that a flag's value can be sent as UTF-8."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("must be text in UTF-8") from None
    return argument


def seconds(argument: str) -> float:
    """Parse a timeout."""
    value = float(argument)
    if not 0 < value <= LONGEST_TIMEOUT_S:
        raise argparse.ArgumentTypeError(f"must be more than 0 and at most {LONGEST_TIMEOUT_S:,} seconds")
    return value
