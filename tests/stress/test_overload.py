"""More clients than the machine can serve at once."""

import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from statistics import median

import pytest
from tritonclient.grpc import InferenceServerClient

from ovms_local.testing import RunningServer
from tests.support import clients
from tests.support.ov_config import EXACT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

CLIENTS = 64
QUEUE_TIMEOUT_S = 20
SLOWEST_HEALTH_S = 1
SETTINGS = {
    "SEED": 7,
    "TEMPERATURE": 0,
    "MAX_NEW_TOKENS": 8,
    "MAX_CONCURRENT_REQUESTS": 8,
    "MAX_QUEUED_REQUESTS": 24,
    "QUEUE_TIMEOUT_S": QUEUE_TIMEOUT_S,
}
SUBJECTS = ["apples", "bees", "chess", "gold", "Greece", "jazz", "maps", "Mars"]
SUBJECTS += ["opera", "Paris", "rain", "Rome", "salt", "tea", "trains", "wolves"]
PROMPTS = [f"Say {n} words about {subject}." for subject in SUBJECTS for n in ("three", "seven", "nine", "forty")]


@pytest.fixture(scope="module")
def server(serving) -> Iterator[RunningServer]:
    """All servables with Optimum's engine, whose answers do not depend on other requests."""
    with serving("all", ENGINE="optimum", **SETTINGS) as server:
        yield server


@pytest.fixture(scope="module")
def alone(server) -> dict[str, str]:
    return answers_alone(clients.unary, server)


@pytest.mark.parametrize("servable", ["stream", "unary"])
def test_each_client_gets_its_own_answer_or_is_told_to_come_back(server, alone, servable, scale, report):
    ask = partial(clients.stream, graph="python_model_stream") if servable == "stream" else clients.unary
    overload(ask, server, alone, f"optimum, {servable}", scale, report)


def test_continuous_batching_mixes_nothing_up(serving, scale, report):
    settings = SETTINGS | {"OV_CONFIG": EXACT, "MAX_QUEUED_REQUESTS": 0}
    with serving("stream", ENGINE="genai", **settings) as server:
        overload(clients.stream, server, answers_alone(clients.stream, server), "genai, stream", scale, report)


def answers_alone(ask, server: RunningServer) -> dict[str, str]:
    answers = {prompt: ask(server.grpc_url, prompt).text for prompt in PROMPTS}
    assert len(set(answers.values())) > CLIENTS / 2  # otherwise mixed-up answers would go unnoticed
    return answers


def overload(ask, server: RunningServer, alone: dict[str, str], title: str, scale, report) -> None:
    with report.row(f"{title}: answers asked for by {CLIENTS} clients at once") as row:
        turned_away, longest = 0, 0.0
        with health_watched(server) as checks, ThreadPoolExecutor(CLIENTS) as pool:
            for _ in range(scale.overloads):
                answers = list(pool.map(partial(at_once, threading.Barrier(CLIENTS), ask, server), PROMPTS))
                for prompt, answer in zip(PROMPTS, answers, strict=True):
                    row.done += 1
                    if answer.error is None and answer.text != alone[prompt]:
                        row.lost.append(f"{prompt!r}: {answer.text!r} instead of {alone[prompt]!r}")
                    elif answer.error is not None and "busy: " not in answer.error:
                        row.lost.append(f"{prompt!r}: {answer.error}")
                    elif answer.error is not None and answer.seconds > QUEUE_TIMEOUT_S + 5:
                        row.lost.append(f"{prompt!r}: told that it is busy after {answer.seconds:.1f} s")
                    turned_away += answer.error is not None
                    longest = max(longest, answer.seconds)
        # At least half of them find neither a place nor space in the queue, unless others finished before they came.
        assert 0 < turned_away < row.done
        # If health checks had to queue, they would take as long as a request. A busy machine delays single ones, too.
        assert median(checks) < longest / 3
        assert not scale.times or max(checks) < SLOWEST_HEALTH_S
        row.measured = f"{turned_away} told that the server is busy; slowest health check {max(checks):.3f} s"


def at_once(together: threading.Barrier, ask, server: RunningServer, prompt: str) -> clients.Answer:
    together.wait()
    return ask(server.grpc_url, prompt)


@contextmanager
def health_watched(server: RunningServer) -> Iterator[list[float]]:
    """Check the server's health repeatedly over both protocols; yield the list that gets the slower one's seconds."""
    over = threading.Event()
    seconds: list[float] = []

    def watch() -> None:
        with InferenceServerClient(server.grpc_url) as client:
            while not over.is_set():
                started = time.monotonic()
                assert client.is_server_live(client_timeout=30)
                between = time.monotonic()
                with urllib.request.urlopen(f"{server.rest_url}/v2/health/ready", timeout=30) as response:
                    assert response.status == 200
                seconds.append(max(between - started, time.monotonic() - between))

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            yield seconds
        finally:
            over.set()
            watching.result()
