import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ovms_local.testing import RunningServer, serve
from tests.support import watch
from tests.support.terminal import needs_tmux, terminal

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
CLIENT = [sys.executable, str(ROOT / "client_stream.py"), "--url"]
PROMPT = "What is the theory of relativity?"
HEADER = f"Question:\n{PROMPT}\n\n"
STATISTICS = (
    r"END\n\n\n"
    r"Number of tokens  (?P<tokens>\d+)\n"
    r"Generated tokens per second  (?P<rate>\d+\.\d\d)\n"
    r"Time per generated token (?P<per_token>\d+\.\d\d) ms\n"
    r"Total time (?P<total>\d+) ms\n"
    r"Number of responses (?P<responses>\d+)\n"
    r"First response time (?P<first>\d+) ms\n"
    r"Average response time: (?P<average>\d+\.\d\d) ms\n"
)
SEVERAL = ["-p", "Who is Albert Einstein?", "-p", "What is the capital of Japan?"]
BLOCKS = (
    r"==== Prompt: Who is Albert Einstein\? ====\n(.+)\n\n"
    r"==== Prompt: What is the capital of Japan\? ====\n(.+)\n\n" + STATISTICS
)
UNFINISHED = """
from pyovms import Tensor
class OvmsPythonModel:
    def execute(self, inputs):
        yield [Tensor("completion", b"\\x0e\\0\\0\\0half an answer", shape=[1], datatype="BYTES")]
"""


def ask(url: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([*CLIENT, url, *arguments], capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def endless_server(int8_model) -> RunningServer:
    """Answers last far longer than any test here waits."""
    env = {"MODEL_PATH": str(int8_model), "IGNORE_EOS": "1", "MAX_NEW_TOKENS": "4000", "LOG_LEVEL": "DEBUG"}
    with serve(ROOT / "servable_stream", env=env) as server:
        yield server


def test_one_prompt(stream_server):
    result = ask(stream_server.grpc_url, "--prompt", PROMPT)
    output = re.fullmatch(re.escape(HEADER) + r"(?P<text>.+)\n" + STATISTICS, result.stdout, re.DOTALL)
    assert output, result.stdout + result.stderr
    assert len(output["text"].split()) > 10
    tokens, responses, total = (int(output[name]) for name in ("tokens", "responses", "total"))
    assert 0 < responses <= tokens <= 32
    assert float(output["rate"]) == pytest.approx(1000 * tokens / total, rel=0.01)
    assert float(output["per_token"]) == pytest.approx(total / tokens, rel=0.01)
    assert float(output["average"]) == pytest.approx(total / responses, rel=0.01)
    assert 0 < int(output["first"]) < total


def test_several_prompts_are_printed_once_complete_where_there_is_no_terminal(stream_server):
    result = ask(stream_server.grpc_url, *SEVERAL)
    output = re.fullmatch(BLOCKS, result.stdout, re.DOTALL)
    assert output, result.stdout + result.stderr
    assert "Einstein" in output[1]


@needs_tmux
def test_several_prompts_on_a_terminal(stream_server):
    with terminal([*CLIENT, stream_server.grpc_url, *SEVERAL], rows=60) as window:
        assert window.until_ended() == 0
        output = re.search(BLOCKS, re.sub(" +\n", "\n", window.scrolled), re.DOTALL)
        assert output, window.scrolled
        assert window.scrolled.count("==== Prompt: ") == 2


@needs_tmux
def test_one_prompt_on_a_terminal_grows_to_the_screen_s_end_and_is_whole_at_last(endless_server):
    command = [*CLIENT, endless_server.grpc_url, "-p", PROMPT, "--timeout", "8"]
    with terminal(command, columns=30, rows=8) as window:
        window.until("?\n\n")
        watch.until(lambda: "Question:" not in window.screen)  # scrolled away: more than fits in the window
        assert window.until_ended() == 1
        head, _, text = window.scrolled.lstrip("\n").partition("?\n\n")
        assert "".join(head.split()) == f"Question:{PROMPT[:-1]}".replace(" ", "")
        text, _, error = text.partition("\nerror: ")
        assert len(text.split()) > 20
        assert len(set(text.split("\n\n")[0].splitlines())) > 3
        assert "".join(error.split()) == "theanswerwasnotcompletewithin--timeout"


def test_json_is_one_object(stream_server):
    answer = json.loads(ask(stream_server.grpc_url, *SEVERAL, "--json").stdout)
    assert answer["prompts"] == SEVERAL[1::2]
    assert "Einstein" in answer["completions"][0]
    assert answer["pieces"] <= answer["completion_tokens"] <= 64
    assert 0 < answer["first_token_ms"] < answer["total_ms"]
    assert 0 < answer["median_between_pieces_ms"] <= answer["p99_between_pieces_ms"]
    rate = 1000 * answer["completion_tokens"] / answer["total_ms"]
    assert answer["tokens_per_second"] == pytest.approx(rate, rel=0.01)


def test_json_of_what_fails_is_nothing(stream_server):
    result = ask(stream_server.grpc_url, "-p", "", "--json")
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "error: prompt 1 of 1 is empty\n")


def test_an_answer_without_its_end_is_told(tmp_path):
    graph = (ROOT / "servable_stream" / "graph.pbtxt").read_text()
    (tmp_path / "graph.pbtxt").write_text(graph)
    (tmp_path / "config.json").write_bytes((ROOT / "servable_stream" / "config.json").read_bytes())
    (tmp_path / "model.py").write_text(UNFINISHED)
    with serve(tmp_path) as server:
        result = ask(server.grpc_url, "-p", PROMPT)
    assert (result.returncode, result.stdout) == (1, f"{HEADER}half an answer\n")
    assert result.stderr.startswith("error: the server ended the stream without an end signal")
    assert result.stderr.count("\n") == 1


def test_pieces_are_printed_as_they_come_and_ctrl_c_ends_the_generation(endless_server):
    client = subprocess.Popen([*CLIENT, endless_server.grpc_url, "-p", PROMPT], stdout=subprocess.PIPE)
    seen = client.stdout.read(len(HEADER) + 1).decode()
    assert seen.startswith(HEADER)
    assert len(watch.generated(endless_server)) < watch.asked(endless_server)  # the generation continues
    client.send_signal(signal.SIGINT)
    client.communicate(timeout=30)
    assert client.returncode == 130
    watch.until(lambda: len(watch.generated(endless_server)) == watch.asked(endless_server))
    assert max(watch.generated(endless_server)) < 4000


def test_a_reader_that_leaves_ends_the_generation(endless_server):
    command = [*CLIENT, endless_server.grpc_url, "-p", PROMPT]
    client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    client.stdout.read(len(HEADER) + 1)
    client.stdout.close()
    assert (client.wait(30), client.stderr.read()) == (141, b"")
    watch.until(lambda: len(watch.generated(endless_server)) == watch.asked(endless_server))
    assert max(watch.generated(endless_server)) < 4000


@pytest.mark.parametrize(
    ("output", "says"),
    [(">&-", "the output is closed"), (">/dev/full", "can't write the output: No space left on device")],
)
def test_an_output_that_takes_nothing_is_one_line(endless_server, output, says):
    shell = ["bash", "-c", f'exec "$@" {output}', "bash", *CLIENT, endless_server.grpc_url, "-p", PROMPT]
    result = subprocess.run(shell, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {says}")
    assert result.stderr.count("\n") == 1


def test_an_error_is_one_line_after_what_came_before_it(endless_server):
    result = ask(endless_server.grpc_url, "-p", PROMPT, "--timeout", "2")
    assert result.returncode == 1
    assert result.stdout.startswith(HEADER)
    assert len(result.stdout) > len(HEADER) + 20
    assert result.stdout.endswith("\n")
    assert result.stderr == "error: the answer was not complete within --timeout\n"


def test_a_refused_prompt_is_one_line(stream_server):
    result = ask(stream_server.grpc_url, "-p", "fine", "-p", "")
    assert (result.returncode, result.stderr) == (1, "error: prompt 2 of 2 is empty\n")


def test_a_model_that_is_not_ready_is_one_line(tmp_path):
    with serve(ROOT / "servable_stream", env={"MODEL_PATH": str(tmp_path / "nothing")}) as server:
        result = ask(server.grpc_url, "-p", "Hello")
    assert result.returncode == 1
    assert "python_model is not ready" in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_unary_servable_is_told_apart(unary_server):
    url = unary_server.grpc_url
    result = ask(url, "-p", "Hello")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"error: python_model at {url} is the unary servable: use client_unary.py\n"
