"""Requests to the chat graphs, and their answers."""

import json
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from tests.support.clients import open_stream, text_input

CAPITAL = "What is the capital of Japan?"
SUMMARY = ["finish_reason", "prompt_tokens", "completion_tokens", "logprobs"]
Answer = dict[str, Any]


def conversation(*turns: str, system: str | None = None, **parameters: Any) -> dict[str, Any]:
    """Return a request with alternating turns of user and assistant."""
    messages = [{"role": ("user", "assistant")[n % 2], "content": turn} for n, turn in enumerate(turns)]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return {"messages": messages} | parameters


def as_input(request: dict[str, Any] | str) -> list[InferInput]:
    """Return the inputs with this request."""
    return text_input("request", request if isinstance(request, str) else json.dumps(request))


def ask(client: InferenceServerClient, request: dict[str, Any] | str) -> Answer:
    """Return the outputs of the unary graph."""
    result = client.infer("chat", as_input(request))
    datatypes = {output.name: output.datatype for output in result.get_response().outputs}
    expected = dict(zip(["completion", *SUMMARY], ["BYTES", "BYTES", "INT32", "INT32", "FP32"], strict=True))
    assert datatypes == expected
    return {name: _value(result.as_numpy(name)) for name in expected}


def stream(url: str, request: dict[str, Any] | str) -> list[tuple[str, Any]]:
    """Return name and value of each output of the streaming graph, up to its end signal."""
    with open_stream(url) as opened:
        opened.send("chat_stream", as_input(request))
        return [(name, _value(array)) for name, array in opened.outputs()]


def joined(outputs: list[tuple[str, Any]]) -> Answer:
    """Combine them into the outputs that the unary graph would return."""
    pieces = [piece for name, piece in outputs if name == "completion"]
    return {"completion": "".join(pieces)} | {name: content for name, content in outputs if name in SUMMARY}


def refused(client: InferenceServerClient, request: dict[str, Any] | str) -> str:
    """Return the error message for a request that can't be served."""
    with pytest.raises(InferenceServerException) as error:
        ask(client, request)
    assert error.value.status() == "StatusCode.INVALID_ARGUMENT"
    return error.value.message()


def _value(array: np.ndarray) -> Any:
    values = [element.decode() if isinstance(element, bytes) else element for element in array.tolist()]
    return values if array.dtype == np.float32 else values[0]
