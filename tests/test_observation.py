"""What operators see of the servables: metrics on a separate port, and a log line for each request."""

import json
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import InferenceServerClient

from ovms_local.testing import RunningServer, free_port, serve
from tests.support import log_lines, watch
from tests.support.chat import CAPITAL, as_input, ask, conversation, refused
from tests.support.clients import TritonStream, open_stream

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
MODEL = "smollm2-135m-instruct"
ENDLESS = {"max_tokens": 4000, "temperature": 0}
SECRET = "xyzzy-4711"

Metrics = dict[str, float]


class Watched:
    """A server with both chat graphs, its metrics and its log."""

    def __init__(self, server: RunningServer, port: int):
        self.server = server
        self._port = port

    def metrics(self) -> Metrics:
        """Return each sample's value, by name and its only label other than model_name: `request_errors_total busy`."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as response:
            text = response.read().decode()
        found = {}
        for sample in (sample for family in text_string_to_metric_families(text) for sample in family.samples):
            labels = dict(sample.labels)
            assert labels.pop("model_name") == MODEL
            found[" ".join([sample.name.removeprefix("llm_"), *labels.values()])] = sample.value
        return found

    def lines(self) -> list[dict[str, Any]]:
        """Return the access lines so far."""
        lines = [json.loads(line) for line in self.server.log.splitlines() if line.startswith("{")]
        return [line for line in lines if "ended" in line]


@pytest.fixture(scope="module", params=["optimum", "genai"])
def watched(int8_model, request) -> Iterator[Watched]:
    """One request runs and one waits, on two graphs, which have to share the port."""
    port = free_port()
    env = {
        "MODEL_PATH": str(int8_model),
        "ENGINE": request.param,
        "IGNORE_EOS": "1",
        "MAX_NEW_TOKENS": "8000",
        "MAX_CONCURRENT_REQUESTS": "1",
        "MAX_QUEUED_REQUESTS": "1",
        "KV_CACHE_GB": "1",
        "LOG_FORMAT": "json",
        "LLM_METRICS_PORT": str(port),
    }
    with serve(ROOT / "servable_chat", env=env) as server:
        yield Watched(server, port)


@pytest.fixture
def client(watched) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(watched.server.grpc_url) as client:
        yield client


@contextmanager
def streaming(watched: Watched) -> Iterator[TritonStream]:
    """Request an endless answer on a separate stream."""
    with open_stream(watched.server.grpc_url) as stream:
        stream.send("chat_stream", as_input(conversation(SECRET, **ENDLESS)))
        yield stream


def grown(before: Metrics, after: Metrics) -> Metrics:
    return {name: value - before[name] for name, value in after.items() if value != before[name]}


def test_all_is_there_before_the_first_request_and_its_warm_up_does_not_count(watched):
    metrics = watched.metrics()
    assert all(value == 0 for value in metrics.values())
    assert {f"request_success_total {reason}" for reason in ("stop", "length", "abort")} <= set(metrics)
    assert watched.lines() == []


def test_answers_count_with_what_they_cost(watched, client):
    before, lines = watched.metrics(), len(watched.lines())
    short = ask(client, conversation(CAPITAL, max_tokens=7, temperature=0))
    stopped = ask(client, conversation(f"Count from 1 to 9. {SECRET}", max_tokens=200, temperature=0, stop=["4"]))
    assert (short["finish_reason"], stopped["finish_reason"]) == ("length", "stop")
    watch.until(lambda: len(watched.lines()) == lines + 2)
    counted = grown(before, watched.metrics())
    tokens = [answer["completion_tokens"] for answer in (short, stopped)]
    prompt_tokens = [answer["prompt_tokens"] for answer in (short, stopped)]
    assert counted["generation_tokens_total"] == counted["request_generation_tokens_sum"] == sum(tokens)
    assert counted["prompt_tokens_total"] == counted["request_prompt_tokens_sum"] == sum(prompt_tokens)
    assert counted["request_success_total stop"] == counted["request_success_total length"] == 1
    for name in ("time_to_first_token", "request_queue_time", "request_prefill_time", "e2e_request_latency"):
        assert counted[f"{name}_seconds_count"] == 2, name
    assert counted["time_per_output_token_seconds_count"] == 2
    assert 0 < counted["inter_token_latency_seconds_count"] <= sum(tokens) - 2
    parts = sum(counted[f"request_{part}_time_seconds_sum"] for part in ("queue", "prefill", "decode"))
    assert 0 < counted["time_to_first_token_seconds_sum"] < parts <= counted["e2e_request_latency_seconds_sum"]
    assert not any("errors" in name or "abort" in name for name in counted)

    for line, answer in zip(watched.lines()[lines:], (short, stopped), strict=True):
        assert (line["ended"], line["level"]) == (answer["finish_reason"], "INFO")
        assert (line["prompts"], line["prompt_tokens"]) == (1, answer["prompt_tokens"])
        assert line["completion_tokens"] == answer["completion_tokens"]
        assert 0 <= line["queue_s"] <= line["first_token_s"] <= line["total_s"]
    ids = {line["request_id"] for line in watched.lines()}
    assert len(ids) == len(watched.lines())
    assert SECRET not in watched.server.log


def test_who_runs_waits_is_turned_away_and_leaves(watched, client):
    before, lines = watched.metrics(), len(watched.lines())
    with streaming(watched) as first:
        first.receive()
        with streaming(watched):
            watch.until(lambda: watched.metrics()["num_requests_waiting"] == 1)
            during = watched.metrics()
            assert during["num_requests_running"] == 1
            assert 0 < during["kv_cache_usage_perc"] < 1
            assert during["generation_tokens_total"] > before["generation_tokens_total"], "counted as they come"
            assert "busy" in refused(client, conversation(CAPITAL))
        watch.until(lambda: watched.metrics()["num_requests_waiting"] == 0)
        assert watched.metrics()["num_requests_running"] == 1
    watch.until(lambda: len(watched.lines()) == lines + 3)
    watch.until(lambda: watched.metrics()["kv_cache_usage_perc"] == 0)
    after = watched.metrics()
    counted = grown(before, after)
    assert after["num_requests_running"] == 0
    assert counted["request_success_total abort"] == 2
    assert counted["request_errors_total busy"] == 1
    assert "e2e_request_latency_seconds_count" not in counted, "what was cut short is no measure of an answer's time"
    busy, left_the_queue, left = watched.lines()[lines:]
    assert [line["ended"] for line in (busy, left_the_queue, left)] == ["busy", "cancelled", "cancelled"]
    assert left_the_queue["first_token_s"] is None
    assert 0 < left_the_queue["queue_s"] <= left_the_queue["total_s"]
    assert left["completion_tokens"] > 0


@pytest.mark.parametrize(
    ("request_text", "kind"),
    [
        ("{", "bad_request"),
        (conversation(SECRET, max_tokens=9000), "bad_request"),
        (conversation("word " * 9000), "too_long"),
    ],
)
def test_refused_requests_count_by_kind(watched, client, request_text, kind):
    before = watched.metrics()
    refused(client, request_text)
    assert grown(before, watched.metrics()) == {f"request_errors_total {kind}": 1}
    line = watched.lines()[-1]
    assert (line["ended"], line["prompts"], line["first_token_s"]) == (kind, 0, None)
    told = [json.loads(text) for text in watched.server.log.splitlines() if log_lines.REQUEST_REFUSED in text][-1]
    assert told["request_id"] == line["request_id"]


def test_what_goes_wrong_in_the_server_counts_too(watched):
    children = psutil.Process(watched.server.process.pid).children(recursive=True)
    generating = [process for process in children if "genai_worker" in " ".join(process.cmdline())]
    if not generating:
        pytest.skip("ENGINE=optimum has no process of its own to kill")
    before = watched.metrics()
    with streaming(watched) as stream:
        stream.receive()
        generating[0].kill()
        watch.until(lambda: watched.metrics()["request_errors_total internal"] == 1)
    watch.until(lambda: watched.metrics()["num_requests_running"] == 0)
    counted = grown(before, watched.metrics())
    assert "request_success_total abort" not in counted
    assert watched.lines()[-1]["ended"] == "internal"


def test_every_line_of_the_servables_is_json(watched):
    lines = [line for line in watched.server.log.splitlines() if "text_generation" in line]
    assert lines
    for line in lines:
        assert {"time", "level", "logger", "message"} <= set(json.loads(line))


def test_scraping_does_not_wait_for_answers(watched):
    """Twenty readers at once while an answer is generated."""
    with streaming(watched) as stream:
        stream.receive()
        found: list[Metrics] = []
        readers = [threading.Thread(target=lambda: found.append(watched.metrics())) for _ in range(20)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(30)
        assert [metrics["num_requests_running"] for metrics in found] == [1] * 20
    watch.until(lambda: watched.metrics()["num_requests_running"] == 0)


def test_a_port_in_use_is_one_line(int8_model):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        env = {"MODEL_PATH": str(int8_model), "LLM_METRICS_PORT": str(port)}
        with serve(ROOT / "servable_unary", env=env) as server:
            [line] = [line for line in server.log.splitlines() if "LLM_METRICS_PORT" in line]
    assert log_lines.graph_is("not available", "python_model") in line
    assert f"LLM_METRICS_PORT is {port}: can't listen on 127.0.0.1:{port}: Address already in use" in line
