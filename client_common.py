"""What both clients do: flags, the request, and errors in one line."""

import argparse
import os
import sys
from collections.abc import Callable

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

MODEL_NAME = "python_model"
CONNECT_TIMEOUT_S = 10
LONGEST_TIMEOUT_S = 1_000_000  # gRPC takes what goes beyond the year 2262 for a time that is over


def parse_arguments(description: str) -> argparse.Namespace:
    """The flags of both clients."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--url", required=True, type=address, help="host:port of the server's gRPC service")
    parser.add_argument(
        "-p",
        "--prompt",
        action="append",
        required=True,
        dest="prompts",
        metavar="PROMPT",
        type=text,
        help="question for the model; give it several times to ask several questions in one request",
    )
    parser.add_argument("--timeout", type=seconds, help="give up after this many seconds (default: wait)")
    return parser.parse_args()


# argparse names these in its own messages ("invalid seconds value").


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


def connect(url: str, streaming: bool) -> InferenceServerClient:
    """A client of a server that is there and has this servable ready; InferenceServerException where it has not."""
    client = InferenceServerClient(url)
    try:
        if not client.is_model_ready(MODEL_NAME, client_timeout=CONNECT_TIMEOUT_S):
            raise InferenceServerException(
                f"the server at {url} is up, but {MODEL_NAME} is not ready: see the server's log"
            )
        outputs = client.get_model_metadata(MODEL_NAME, client_timeout=CONNECT_TIMEOUT_S).outputs
    except InferenceServerException as error:
        if error.status() in ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED"):
            raise InferenceServerException(f"no server answers at {url}: {error.message()}") from None
        raise
    # The wrong client would wait for an end signal that never comes, or be told of an error that explains nothing.
    if any(output.name == "end_signal" for output in outputs) != streaming:
        there = "unary servable: use client_unary.py" if streaming else "streaming servable: use client_stream.py"
        raise InferenceServerException(f"{MODEL_NAME} at {url} is the {there}")
    return client


def pre_prompt(prompts: list[str]) -> list[InferInput]:
    """The request's inputs: one BYTES tensor with a prompt per element."""
    tensor = InferInput("pre_prompt", [len(prompts)], "BYTES")
    tensor.set_data_from_numpy(np.array([prompt.encode() for prompt in prompts], dtype=np.object_))
    return [tensor]


def print_completions(prompts: list[str], completions: list[str]) -> None:
    """A block per prompt."""
    for prompt, completion in zip(prompts, completions, strict=True):
        print(f"==== Prompt: {prompt} ====\n{completion}\n")


def run(main: Callable[[], None]) -> None:
    """Run a client to its exit: errors in one line with code 1; Ctrl-C, or nobody who reads the output any more, with
    a shell's codes for them.
    """
    if sys.stdout is None:
        sys.exit("error: the output is closed: leave it open, or send it to /dev/null")
    # A whole answer must not be lost for a character that the output's encoding does not have.
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            main()
        except InferenceServerException as error:
            late = error.status() == "StatusCode.DEADLINE_EXCEEDED"
            message = "the answer was not complete within --timeout" if late else error.message()
            sys.exit(f"error: {' '.join(message.split())}")
        except KeyboardInterrupt:
            print()
            sys.exit(130)
        finally:
            sys.stdout.flush()
    except OSError as error:
        # What is still to be written would fail once more when Python flushes it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141 if isinstance(error, BrokenPipeError) else f"error: can't write the output: {error.strerror}")
