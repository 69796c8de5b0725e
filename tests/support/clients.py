"""tritonclient's clients for the servables, and their results."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, InferResult
from tritonclient.utils import InferenceServerException

TIMEOUT_S = 240
PROMPTS = 32  # the default of MAX_PROMPTS_PER_REQUEST


def text_input(name: str, *texts: str | bytes) -> list[InferInput]:
    """Return the inputs of a request: one tensor with one text per element."""
    tensor = InferInput(name, [len(texts)], "BYTES")
    elements = [text if isinstance(text, bytes) else text.encode() for text in texts]
    tensor.set_data_from_numpy(np.array(elements, dtype=np.object_))
    return [tensor]


class TritonStream:
    """The stream of a client, which queues the responses."""

    def __init__(self, client: InferenceServerClient, **options: Any) -> None:
        self._client = client
        self._arrived: SimpleQueue[InferResult | InferenceServerException] = SimpleQueue()
        client.start_stream(lambda result, error: self._arrived.put(error or result), **options)

    def send(self, graph: str, inputs: list[InferInput]) -> None:
        """Send a request, without waiting for the answer."""
        self._client.async_stream_infer(graph, inputs)

    def receive(self, timeout_s: float = TIMEOUT_S) -> InferResult:
        """Return the next response; raises the client's error, or TimeoutError if nothing arrives."""
        try:
            arrived = self._arrived.get(timeout=timeout_s)
        except Empty:
            raise TimeoutError(f"nothing came for {timeout_s} s") from None
        if isinstance(arrived, InferenceServerException):
            raise arrived
        return arrived

    def outputs(self, timeout_s: float = TIMEOUT_S) -> Iterator[tuple[str, np.ndarray]]:
        """Yield name and value of each output of one request to a servable, up to its end signal."""
        while True:
            result = self.receive(timeout_s)
            [output] = result.get_response().outputs
            if output.name == "end_signal":
                return
            yield output.name, result.as_numpy(output.name)

    def finish(self) -> None:
        """Close the client's side, and wait until all responses have arrived."""
        self._client.stop_stream()

    def cancel(self) -> None:
        """Leave, cancelling what is still running."""
        self._client.stop_stream(cancel_requests=True)


@contextmanager
def open_stream(url: str) -> Iterator[TritonStream]:
    """Open a stream with its own client; leaving it cancels what is still running."""
    with InferenceServerClient(url) as client:
        stream = TritonStream(client)
        try:
            yield stream
        finally:
            stream.cancel()


@dataclass(frozen=True, slots=True)
class Answer:
    """A client's result for one prompt; `error` is the error message, None on success."""

    text: str
    token_count: int
    error: str | None
    seconds: float


def largest_request(number: int) -> list[str]:
    """Return prompts of about 255 tokens each as chat prompts: just within MAX_PROMPT_TOKENS_PER_REQUEST, 8,192.

    Each has a unique beginning, since prompts with the same beginning share its cache.
    """
    return [f"{number} {row} " + "word " * 218 for row in range(PROMPTS)]


def stream(url: str, prompt: str, goes_on: Callable[[int], bool] = bool, graph: str = "python_model") -> Answer:
    """Ask the streaming servable; leave the stream once `goes_on`, called with the number of pieces, returns False."""
    started = time.monotonic()
    text, token_count, error = b"", -1, None
    with open_stream(url) as opened:
        opened.send(graph, text_input("pre_prompt", prompt))
        pieces = 0
        with closing(opened.outputs()) as received:
            for name, value in received:
                if name == "completion":
                    text += value[0]
                    pieces += 1
                    if not goes_on(pieces):
                        break
                elif name == "token_count":
                    token_count = int(value[0])
                else:
                    error = value[0].decode()
    return Answer(text.decode(), token_count, error, time.monotonic() - started)


def take_part(url: str, prompts: list[str], steps: int | None) -> str | None:
    """Read this many outputs of one request to the streaming servable, or all; return the error, if any."""
    with open_stream(url) as opened:
        opened.send("python_model", text_input("pre_prompt", *prompts))
        for name, value in islice(opened.outputs(timeout_s=1800), steps):
            if name == "error_message":
                return value[0].decode()
    return None


def unary(url: str, prompt: str) -> Answer:
    """Ask the unary servable."""
    started = time.monotonic()
    with InferenceServerClient(url) as client:
        try:
            result = client.infer("python_model", text_input("pre_prompt", prompt), client_timeout=TIMEOUT_S)
        except InferenceServerException as error:
            return Answer("", -1, error.message(), time.monotonic() - started)
    text = result.as_numpy("completion")[0].decode()
    return Answer(text, int(result.as_numpy("token_count")[0]), None, time.monotonic() - started)
