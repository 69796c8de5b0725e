"""Every subject is measured briefly, with the processes of the real benchmark."""

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks import processor_time
from benchmarks.llama_server import LlamaServer, body
from benchmarks.subjects import ALL_TOKENS, InProcess, clients, in_process, served
from benchmarks.workload import Run, Workload
from text_generation.serve.prompts import PromptEncoder

pytestmark = pytest.mark.slow

WORKLOAD = Workload(clients=2, requests=2, new_tokens=3)


def check(run: Run) -> None:
    """Check four answers: their pieces arrive in order, within the answer's time."""
    assert len(run.answers) == 4
    for answer in run.answers:
        times = [answer.sent, *answer.arrivals, answer.ended]
        assert times == sorted(times)
        assert 1 <= len(answer.arrivals) <= WORKLOAD.new_tokens + 1  # the rest of a split character may be a piece
    assert run.tokens_per_s > 0
    assert run.peak_bytes > 100e6


@pytest.mark.parametrize("name", ["optimum", "genai", "pipeline", "generate"])
def test_without_a_server(int8_model, name):
    encoder = PromptEncoder.load(int8_model)
    with in_process([sys.executable, "-m", "benchmarks.in_process", name, str(int8_model)], encoder) as subject:
        check(subject.measure(WORKLOAD))


def test_through_a_server_with_a_process_for_each_client(int8_model):
    with clients(2) as client_processes:
        with served("optimum", "stream", int8_model, WORKLOAD.new_tokens, client_processes, **ALL_TOKENS) as server:
            check(server.measure(WORKLOAD))
            with pytest.raises(ValueError, match="started for 3 tokens"):
                server.measure(Workload(1, 1, 4))
        with served("optimum", "unary", int8_model, WORKLOAD.new_tokens, client_processes[:1], **ALL_TOKENS) as server:
            several = Workload(clients=1, requests=2, new_tokens=WORKLOAD.new_tokens)
            (answer,) = server.ask(several, [[["Hi", "What is bread?"]]]).answers
            assert answer.ended > answer.sent


def test_the_time_of_all_cores_is_divided(int8_model):
    with (
        clients(2) as client_processes,
        served("genai", "stream", int8_model, WORKLOAD.new_tokens, client_processes, **ALL_TOKENS) as server,
    ):
        milliseconds = processor_time.measure(server, WORKLOAD)
    assert milliseconds["pipeline"] > 0
    total = milliseconds.pop(processor_time.TOTAL)
    assert milliseconds.keys() == {"pipeline", "server", "clients", processor_time.IDLE}
    assert sum(milliseconds.values()) == pytest.approx(total)


def test_a_child_that_ends_is_an_error(int8_model, tmp_path):
    encoder = PromptEncoder.load(int8_model)
    command = [sys.executable, "-m", "benchmarks.in_process", "optimum", str(tmp_path)]
    with pytest.raises(RuntimeError, match="ended with exit code 1"), in_process(command, encoder) as subject:
        assert not isinstance(subject, InProcess), "it must not get here"


def test_a_conversation_and_requests_at_given_times(int8_model):
    with clients(1) as client_processes, served("genai", "chat", int8_model, 3, client_processes) as server:
        answer, text = server.chat([{"role": "user", "content": "Hi"}])
        assert answer.arrivals
        assert text
        (client,) = client_processes
        begin = time.monotonic() + 0.2
        times = [begin, begin, begin + 0.2]
        request = {"messages": [{"role": "user", "content": "What is bread?"}]}
        client.send({"url": server.url, "kind": "chat", "requests": [request] * 3, "at": times})
        reply = client.receive()
        assert [answer["sent"] for answer in reply["answers"]] == times
        assert all(answer["arrivals"][0] > at for answer, at in zip(reply["answers"], times, strict=True))
        assert reply["token_counts"] == [3, 3, 3]


class _LlamaServer(BaseHTTPRequestHandler):
    """Answers like llama-server: one event per token, and one with their number."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        tokens = body["n_predict"]
        events = [{"content": "word " * (token > 0), "stop": False} for token in range(tokens)]
        events.append({"content": "", "stop": True, "tokens_predicted": tokens})
        if body["prompt"] == []:
            events = [{"error": "no prompt"}]
        content = "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content))


@pytest.fixture
def llama_url():
    with ThreadingHTTPServer(("127.0.0.1", 0), _LlamaServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_llama_server_is_asked_by_the_same_clients(llama_url, int8_model):
    with clients(2) as client_processes:
        subject = LlamaServer(llama_url, os.getpid(), client_processes, PromptEncoder.load(int8_model))
        run = subject.measure(WORKLOAD)
        assert [len(answer.arrivals) for answer in run.answers] == [2] * 4, "events without text are no pieces"
        assert run.tokens_per_s > 0
        client_processes[0].send({"url": llama_url, "kind": "completion", "requests": [body([], 3, ignore_eos=True)]})
        with pytest.raises(RuntimeError, match="ended with exit code 1"):
            client_processes[0].receive()
