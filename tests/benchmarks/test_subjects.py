"""Every subject measured for a moment, with the processes of the real benchmark."""

import sys

import pytest

from benchmarks.subjects import InProcess, clients, in_process, served
from benchmarks.workload import Run, Workload
from text_generation.serve.prompts import PromptEncoder

pytestmark = pytest.mark.slow

WORKLOAD = Workload(clients=2, requests=2, new_tokens=3)


def check(run: Run) -> None:
    """Four answers whose pieces come one after another within the time that they took."""
    assert len(run.answers) == 4
    for answer in run.answers:
        times = [answer.sent, *answer.arrivals, answer.ended]
        assert times == sorted(times)
        assert 1 <= len(answer.arrivals) <= WORKLOAD.new_tokens + 1  # a cut character's rest may come on its own
    assert run.tokens_per_s > 0
    assert run.peak_bytes > 100e6


@pytest.mark.parametrize("name", ["optimum", "genai", "pipeline", "generate"])
def test_without_a_server(int8_model, name):
    encoder = PromptEncoder.load(int8_model)
    with in_process([sys.executable, "-m", "benchmarks.in_process", name, str(int8_model)], encoder) as subject:
        check(subject.measure(WORKLOAD))


def test_through_a_server_with_a_process_for_each_client(int8_model):
    with clients(2) as client_processes:
        with served("optimum", "stream", int8_model, WORKLOAD.new_tokens, client_processes) as server:
            check(server.measure(WORKLOAD))
            with pytest.raises(ValueError, match="started for 3 tokens"):
                server.measure(Workload(1, 1, 4))
        with served("optimum", "unary", int8_model, WORKLOAD.new_tokens, client_processes[:1]) as server:
            several = Workload(clients=1, requests=2, new_tokens=WORKLOAD.new_tokens)
            (answer,) = server.ask(several, [[["Hi", "What is bread?"]]]).answers
            assert answer.ended > answer.sent


def test_a_child_that_ends_is_an_error(int8_model, tmp_path):
    encoder = PromptEncoder.load(int8_model)
    command = [sys.executable, "-m", "benchmarks.in_process", "optimum", str(tmp_path)]
    with pytest.raises(RuntimeError, match="ended with exit code 1"), in_process(command, encoder) as subject:
        assert not isinstance(subject, InProcess), "it must not get here"
