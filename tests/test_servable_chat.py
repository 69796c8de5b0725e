"""The chat graphs with the real model, through real clients."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from ovms_local.testing import RunningServer, serve
from tests.support import log_lines, watch
from tests.support.chat import CAPITAL, SUMMARY, ask, conversation, joined, refused, stream
from tests.support.clients import text_input
from tests.support.ov_config import EXACT

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
TOKYO = "The capital of Japan is Tokyo."


@pytest.fixture(scope="module", params=["optimum", "genai"])
def engine(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def server(int8_model, engine) -> Iterator[RunningServer]:
    """Both chat graphs with exact arithmetic, greedy unless a request says otherwise."""
    env = {
        "MODEL_PATH": str(int8_model),
        "ENGINE": engine,
        "OV_CONFIG": EXACT,
        "TEMPERATURE": "0",
        "REPETITION_PENALTY": "1",
        "MAX_NEW_TOKENS": "200",
    }
    with serve(ROOT / "servable_chat", env=env) as server:
        yield server


@pytest.fixture(scope="module")
def client(server) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(server.grpc_url) as client:
        yield client


def test_an_answer_with_its_reason_and_its_cost(client, server, int8_model):
    answer = ask(client, conversation(CAPITAL))
    tokenizer = Tokenizer.from_file(str(int8_model / "tokenizer.json"))
    assert answer == {
        "completion": TOKYO,
        "finish_reason": "stop",
        "prompt_tokens": answer["prompt_tokens"],
        "completion_tokens": len(tokenizer.encode(TOKYO).ids),
        "logprobs": [],
    }
    longer = ask(client, conversation(f"{CAPITAL} x x x"))
    assert longer["prompt_tokens"] - answer["prompt_tokens"] == len(tokenizer.encode(" x x x").ids)
    outputs = stream(server.grpc_url, conversation(CAPITAL))
    assert joined(outputs) == answer
    names = [name for name, _ in outputs]
    assert sorted(names[-4:]) == sorted(SUMMARY)
    assert len([piece for name, piece in outputs if name == "completion" and piece]) > 1


def test_a_server_with_genai_loads_no_torch(client, server, engine):
    """Its import would take most of such a server's startup time."""
    ask(client, conversation(CAPITAL))
    libraries = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert ("libtorch" in libraries) == (engine == "optimum")


def test_the_second_turn_knows_the_first(client):
    question = "What is its population?"
    completion = ask(client, conversation(CAPITAL, TOKYO, question))["completion"]
    assert "Tokyo" in completion
    assert "million" in completion
    assert "Tokyo" not in ask(client, conversation(question))["completion"]


def test_a_system_prompt_changes_the_answer(client):
    plain = ask(client, conversation("Who are you?", max_tokens=30))
    system = "You are a pirate called Redbeard. Say your name."
    pirate = ask(client, conversation("Who are you?", system=system, max_tokens=30))
    assert plain != pirate
    assert "Redbeard" in pirate["completion"]


def test_a_seed_repeats(client):
    request = conversation("Tell me a story.", temperature=1.0, max_tokens=20)
    answers = [ask(client, request | {"seed": seed})["completion"] for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_the_longest_answer(client, server):
    for request in (conversation("Tell me a story.", max_tokens=5), conversation("Tell me a story.", max_tokens=1)):
        answer = ask(client, request)
        assert (answer["finish_reason"], answer["completion_tokens"]) == ("length", request["max_tokens"])
        assert joined(stream(server.grpc_url, request)) == answer
    assert ask(client, conversation("Tell me a very long story."))["completion_tokens"] <= 200
    assert "max_tokens: is 201, but MAX_NEW_TOKENS" in refused(client, conversation("Hi", max_tokens=201))


def test_parameters_of_neighbours_do_not_touch_each_other(client):
    """Greedy answers are the same alone and next to requests with sampling, penalties, limits and stop strings."""
    greedy = conversation(CAPITAL)
    others = [
        conversation("Tell me a story.", temperature=2.0, max_tokens=40, seed=3),
        conversation("Tell me a story.", repetition_penalty=5, frequency_penalty=2, max_tokens=40),
        conversation("Tell me a story.", stop=["the"], min_p=0.5, top_k=3, temperature=1),
        conversation("Tell me a story.", max_tokens=1, logprobs=True),
    ]
    alone = ask(client, greedy)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda request: ask(client, request), [*others, greedy, *others, greedy]))
    assert together[4] == together[-1] == alone


def test_values_that_are_bounds_in_32_bits_are_those_next_to_them(client):
    for sampling in ({"top_p": 1e-46}, {"min_p": 0.99999999999}, {"top_p": 5e-324, "temperature": 2}):
        assert ask(client, conversation(CAPITAL, **{"temperature": 1.0, "top_k": 0} | sampling))["completion"] == TOKYO


def test_stop_strings_end_the_answer_before_them(client, server):
    whole = ask(client, conversation("Count from one to ten in words."))["completion"]
    stop, beginning = whole[len(whole) // 2 :][:6], whole[:1]
    for stops in (stop, ["never this", stop], beginning):
        request = conversation("Count from one to ten in words.", stop=stops)
        answer = ask(client, request)
        assert answer["completion"] == ("" if stops == beginning else whole[: whole.index(stop)])
        assert answer["finish_reason"] == "stop"
        assert joined(stream(server.grpc_url, request)) == answer


def test_logprobs_are_one_for_each_token(client, server):
    request = conversation(CAPITAL, logprobs=True)
    answer = ask(client, request)
    assert len(answer["logprobs"]) == answer["completion_tokens"]
    assert all(-5 < logprob <= 0 for logprob in answer["logprobs"])
    assert joined(stream(server.grpc_url, request))["logprobs"] == pytest.approx(answer["logprobs"], abs=1e-3)


def test_json_that_fits_its_schema(client, engine):
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    request = conversation("Invent a person, as JSON.", response_format=wanted, temperature=0.7, max_tokens=120)
    if engine == "optimum":
        assert "response_format" in refused(client, request)
        return
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda seed: ask(client, request | {"seed": seed}), range(20)))
    for answer in answers:
        assert answer["finish_reason"] == "stop", answer
        person = json.loads(answer["completion"])
        assert set(person) == {"name", "age"}
        assert (type(person["name"]), type(person["age"])) == (str, int)
        assert len(person["name"]) <= 20
    anything = ask(client, conversation("Give me JSON.", response_format={"type": "json_object"}, max_tokens=200))
    if anything["finish_reason"] == "stop":
        assert isinstance(json.loads(anything["completion"]), dict)


def test_special_tokens_in_any_message_are_text(client):
    """The number of prompt tokens shows that they were encoded as text."""
    plain = ask(client, conversation("x", "x", "x", max_tokens=1))["prompt_tokens"]
    typed = ask(client, conversation("<|im_end|>", "<|im_end|>", "<|im_end|>", max_tokens=1))["prompt_tokens"]
    assert typed > plain + 6


def test_over_rest_with_curl(server):
    body = {
        "inputs": [{"name": "request", "shape": [1], "datatype": "BYTES", "data": [json.dumps(conversation(CAPITAL))]}]
    }
    url = f"{server.rest_url}/v2/models/chat/infer"
    curl = ["curl", "--silent", "--show-error", "--noproxy", "*", "--data", json.dumps(body), url]
    answer = json.loads(subprocess.run(curl, capture_output=True, text=True, check=True, timeout=60).stdout)
    outputs = {output["name"]: output["data"] for output in answer["outputs"]}
    assert outputs["completion"] == [TOKYO]
    assert outputs["finish_reason"] == ["stop"]
    assert outputs["logprobs"] == []


def nested(depth: int) -> list:
    return [nested(depth - 1)] if depth else []


@pytest.mark.parametrize(
    ("request_text", "says"),
    [
        ("", "request is not valid JSON"),
        ("[]", "must be a JSON object"),
        ("{}", "messages: is missing"),
        (conversation("Hi") | {"messages": []}, "messages: must not be empty"),
        (conversation("Hi", temperature=2.5), "temperature: must be at most 2 (got 2.5)"),
        (conversation("Hi", temperature="0"), "temperature: must be a number"),
        (conversation("Hi", top_p=0), "top_p: must be above 0"),
        (conversation("Hi", top_k=-1), "top_k: must be at least 0"),
        (conversation("Hi", seed=True), "seed: must be an integer"),
        (conversation("Hi", max_tokens=0), "max_tokens: must be at least 1"),
        (conversation("Hi", max_new_tokens=5), "max_new_tokens: unknown field; valid fields are max_tokens,"),
        (conversation("Hi", stop=["a"] * 5), "stop: must have at most 4 items"),
        (conversation("Hi", stop=[1]), "stop: must be a string, or a list of up to 4"),
        (conversation("Hi", stop=""), "stop.0: must not be empty"),
        (conversation("Hi", response_format={"type": "xml"}), "response_format.type: must be 'text'"),
        (conversation("Hi", response_format={"type": "json_schema"}), "json_schema and the type json_schema"),
        (conversation("Hi", chat_template_kwargs={"tools": []}), "tools is reserved and can't be passed"),
        (conversation("<|im_end|>", chat_template_kwargs={"a": nested(800)}), "chat_template_kwargs: is nested too"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role: must be 'system', 'user' or"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content: must be a string"),
        ({"messages": [{"role": "user", "content": "a", "name": "b"}]}, "messages.0.name: unknown field"),
        (conversation("a\0b"), "messages.0.content: contains a null byte"),
        ('{"messages": NaN}', "NaN is not a number in JSON"),
        ('{"messages": [], "messages": []}', 'duplicate key "messages"'),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "an unpaired surrogate"),
        ("[" * 50_000, "nested too deeply"),
        (conversation("word " * 9000), "the model's context, answer included, is 8192: shorten the message"),
        (conversation("word " * 9000, "Yes.", "a"), "too long: the conversation has 9045 tokens, but the"),
        (conversation("word " * 9000, "Yes.", "a"), "is 8192: leave out the oldest turns"),
        (conversation("a", system="word " * 9000), "is 8192: shorten the messages"),
        (conversation("word " * 1_000_000), "can never allow that many: shorten the message"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_says_why_and_harms_nobody(client, server, request_text, says):
    assert says in refused(client, request_text)
    [(name, message)] = stream(server.grpc_url, request_text)
    assert name == "error_message"
    assert says in message
    assert "\n" not in message
    assert ask(client, conversation(CAPITAL))["completion"] == TOKYO


def test_a_request_is_one_text(client):
    with pytest.raises(InferenceServerException, match="request has 2 elements, but must have exactly one"):
        client.infer("chat", text_input("request", "{}", "{}"))


def test_a_refusal_is_one_line_in_the_log_without_the_client_s_names(client, server):
    refusal = f"{log_lines.REQUEST_REFUSED}request: unknown field\n"
    before = server.log.count(refusal)
    refused(client, conversation("Hi", **{"\x1bfoo\n" * 10_000: 1}))
    watch.until(lambda: server.log.count(refusal) > before)
    assert "foo" not in server.log


def test_all_servables_of_a_process_share_one_model(int8_model):
    """The weights are loaded once, and every graph answers."""
    env = {"MODEL_PATH": str(int8_model), "MAX_NEW_TOKENS": "20", "TEMPERATURE": "0"}
    with serve(ROOT / "servable_unary", env=env) as server:
        alone = resident_bytes(server.process.pid)
    with serve(ROOT / "servable_all", env=env) as server:
        assert resident_bytes(server.process.pid) < alone + (int8_model / "openvino_model.bin").stat().st_size / 2
        assert server.log.count(log_lines.MODEL_IS_READY) == 1
        with InferenceServerClient(server.grpc_url) as client:
            assert "Tokyo" in ask(client, conversation(CAPITAL))["completion"]
            assert client.infer("python_model", text_input("pre_prompt", CAPITAL)).as_numpy("token_count")[0]
        assert "Tokyo" in joined(stream(server.grpc_url, conversation(CAPITAL)))["completion"]
        client = [sys.executable, ROOT / "client_stream.py", "--url", server.grpc_url, "-p", CAPITAL]
        done = subprocess.run(
            [*client, "--model-name", "python_model_stream"], capture_output=True, text=True, check=True, timeout=60
        )
        assert "Tokyo" in done.stdout


def resident_bytes(pid: int) -> int:
    """Return a process's resident bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.split("VmRSS:")[1].split()[0])
