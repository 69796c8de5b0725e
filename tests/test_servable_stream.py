from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient

from ovms_local.testing import serve
from tests.support.clients import TritonStream, open_stream, text_input

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
RELATIVITY = "What is the theory of relativity?"


def ask(stream: TritonStream, *prompts: str | bytes) -> list[tuple[str, np.ndarray]]:
    """Return name and value of each output except the end signal."""
    stream.send("python_model", text_input("pre_prompt", *prompts))
    return list(stream.outputs())


def texts(outputs: list[tuple[str, np.ndarray]]) -> list[str]:
    """Join the pieces to completions."""
    steps = [[piece.decode() for piece in value] for name, value in outputs if name == "completion"]
    return ["".join(pieces) for pieces in zip(*steps, strict=True)]


def test_pieces_then_the_count_then_the_end(stream_server):
    with open_stream(stream_server.grpc_url) as opened:
        opened.send("python_model", text_input("pre_prompt", RELATIVITY))
        outputs = []
        while not outputs or outputs[-1][0] != "end_signal":
            result = opened.receive()
            [output] = result.get_response().outputs
            outputs.append((output.name, result.as_numpy(output.name)))
    names = [name for name, _ in outputs]
    assert names == ["completion"] * (len(names) - 2) + ["token_count", "end_signal"]
    assert all(value.shape == (1,) for _, value in outputs[:-1])
    (_, token_count), (_, end_signal) = outputs[-2:]
    assert token_count.dtype == np.int32
    assert len(names) - 2 <= token_count[0] <= 32
    assert (end_signal.dtype, end_signal.shape) == (np.uint8, (0,))


def test_a_prompt_that_has_finished_gets_empty_pieces_while_others_go_on(stream_server):
    greetings = ["Hi", "Hello", "Hi there", "Good morning", "Thanks!", "Bye"]
    with open_stream(stream_server.grpc_url) as opened:
        outputs = ask(opened, *greetings, "Write a very long story about the sea.")
    last_steps = np.array([value for name, value in outputs if name == "completion"][-3:])
    finished = (last_steps == b"").all(axis=0)
    assert finished.any()
    assert not finished.all()
    assert all(texts(outputs))


def test_one_stream_takes_one_request_after_another(stream_server):
    with open_stream(stream_server.grpc_url) as opened:
        assert texts(ask(opened, RELATIVITY)) == texts(ask(opened, RELATIVITY))


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ([b""], "prompt 1 of 1 is empty"),
        ([b"\xc3"], "element 1 of pre_prompt is not UTF-8"),
        ([b"word " * 8200], "a prompt has 8231 tokens"),
    ],
)
def test_an_error_is_an_output_and_the_stream_goes_on(stream_server, prompts, says):
    with open_stream(stream_server.grpc_url) as opened:
        [(name, message)] = ask(opened, *prompts)
        assert name == "error_message"
        assert says in message[0].decode()
        assert texts(ask(opened, "Hello"))


@pytest.mark.parametrize("language", ["Chinese", "Arabic", "emoji only"])
def test_unary_and_streaming_give_the_same_whole_text(unary_server, stream_server, language):
    question = f"Write a short poem about the sea in {language}: 海 بحر 🌊"
    with open_stream(stream_server.grpc_url) as opened:
        streamed = ask(opened, question)
    with InferenceServerClient(unary_server.grpc_url) as client:
        whole = client.infer("python_model", text_input("pre_prompt", question))
    assert texts(streamed) == [text.decode() for text in whole.as_numpy("completion")]
    assert streamed[-1][1][0] == whole.as_numpy("token_count")[0]


def test_the_genai_engine_serves_the_same_way(int8_model):
    env = {"MODEL_PATH": str(int8_model), "ENGINE": "genai", "MAX_NEW_TOKENS": "64"}
    with serve(ROOT / "servable_stream", env=env) as server, open_stream(server.grpc_url) as opened:
        outputs = ask(opened, RELATIVITY, "Who is Albert Einstein?")
        assert all(len(text) > 50 for text in texts(outputs))
        assert outputs[-1][0] == "token_count"
        [(name, message)] = ask(opened, "")
        assert (name, message[0].decode()) == ("error_message", "prompt 1 of 1 is empty")
