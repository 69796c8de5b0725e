from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput, InferResult

from ovms_local.testing import RunningServer, serve

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
RELATIVITY = "What is the theory of relativity?"


class Stream:
    """One gRPC stream, on which questions are asked one after the other."""

    def __init__(self, client: InferenceServerClient):
        self._client = client
        self._results: SimpleQueue[InferResult | Exception] = SimpleQueue()
        client.start_stream(lambda result, error: self._results.put(error or result))

    def ask(self, *prompts: str | bytes) -> list[tuple[str, np.ndarray]]:
        """Name and value of each output, up to the end signal."""
        tensor = InferInput("pre_prompt", [len(prompts)], "BYTES")
        tensor.set_data_from_numpy(np.array(prompts, dtype=np.object_))
        self._client.async_stream_infer("python_model", [tensor])
        outputs = []
        while not outputs or outputs[-1][0] != "end_signal":
            result = self._results.get(timeout=60)
            assert isinstance(result, InferResult), result
            [output] = result.get_response().outputs
            outputs.append((output.name, result.as_numpy(output.name)))
        return outputs


@contextmanager
def stream(server: RunningServer) -> Iterator[Stream]:
    with InferenceServerClient(server.grpc_url) as client:
        yield Stream(client)


def texts(outputs: list[tuple[str, np.ndarray]]) -> list[str]:
    """The completions, joined from their pieces."""
    steps = [[piece.decode() for piece in value] for name, value in outputs if name == "completion"]
    return ["".join(pieces) for pieces in zip(*steps, strict=True)]


def test_pieces_then_the_count_then_the_end(stream_server):
    with stream(stream_server) as opened:
        outputs = opened.ask(RELATIVITY)
    names = [name for name, _ in outputs]
    assert names == ["completion"] * (len(names) - 2) + ["token_count", "end_signal"]
    assert all(value.shape == (1,) for _, value in outputs[:-1])
    (_, token_count), (_, end_signal) = outputs[-2:]
    assert token_count.dtype == np.int32
    assert len(names) - 2 <= token_count[0] <= 64
    assert (end_signal.dtype, end_signal.shape) == (np.uint8, (0,))


def test_a_prompt_that_has_finished_gets_empty_pieces_while_others_go_on(stream_server):
    greetings = ["Hi", "Hello", "Hi there", "Good morning", "Thanks!", "Bye"]
    with stream(stream_server) as opened:
        outputs = opened.ask(*greetings, "Write a very long story about the sea.")
    last_steps = np.array([value for name, value in outputs if name == "completion"][-3:])
    finished = (last_steps == b"").all(axis=0)
    assert finished.any()
    assert not finished.all()
    assert all(texts(outputs))


def test_one_stream_takes_one_request_after_another(stream_server):
    with stream(stream_server) as opened:
        assert texts(opened.ask(RELATIVITY)) == texts(opened.ask(RELATIVITY))


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ([b""], "prompt 1 of 1 is empty"),
        ([b"\xc3"], "element 1 of pre_prompt is not UTF-8"),
        ([b"word " * 8200], "a prompt has 8231 tokens"),
    ],
)
def test_an_error_is_an_output_and_the_stream_goes_on(stream_server, prompts, says):
    with stream(stream_server) as opened:
        (name, message), (end, _) = opened.ask(*prompts)
        assert (name, end) == ("error_message", "end_signal")
        assert says in message[0].decode()
        assert texts(opened.ask("Hello"))


@pytest.mark.parametrize("language", ["Chinese", "Arabic", "emoji only"])
def test_unary_and_streaming_give_the_same_whole_text(unary_server, stream_server, language):
    question = f"Write a short poem about the sea in {language}: 海 بحر 🌊"
    with stream(stream_server) as opened:
        streamed = opened.ask(question)
    tensor = InferInput("pre_prompt", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([question], dtype=np.object_))
    with InferenceServerClient(unary_server.grpc_url) as client:
        whole = client.infer("python_model", [tensor])
    assert texts(streamed) == [text.decode() for text in whole.as_numpy("completion")]
    assert streamed[-2][1][0] == whole.as_numpy("token_count")[0]


def test_the_genai_engine_serves_the_same_way(int8_model):
    env = {"MODEL_PATH": str(int8_model), "ENGINE": "genai", "MAX_NEW_TOKENS": "64"}
    with serve(ROOT / "servable_stream", env=env) as server, stream(server) as opened:
        outputs = opened.ask(RELATIVITY, "Who is Albert Einstein?")
        assert all(len(text) > 50 for text in texts(outputs))
        assert [name for name, _ in outputs[-2:]] == ["token_count", "end_signal"]
        (name, message), _ = opened.ask("")
        assert (name, message[0].decode()) == ("error_message", "prompt 1 of 1 is empty")
