"""The messages of GenAI's process, and their times."""

import contextlib
import itertools
import json
import math
import multiprocessing
import random
import threading
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import openvino_genai as ov_genai
import pytest

from tests.support.ov_config import EXACT
from text_generation.serve.engines import genai_worker
from text_generation.serve.engines.genai_messages import Cancel, End, Events, Request, Tokens

pytestmark = pytest.mark.slow
PROMPT = [504, 3575, 282]
COUNT = 60


def run_until_closed(worker: genai_worker.Worker) -> None:
    with contextlib.suppress(EOFError, OSError):
        worker.run()


@pytest.fixture(scope="module")
def connection(int8_model: Path) -> Iterator[Connection]:
    """The server's end of a connection to a worker that sends only awaited events, however long that takes."""
    pipeline = ov_genai.ContinuousBatchingPipeline(int8_model, ov_genai.SchedulerConfig(), "CPU")
    here, there = multiprocessing.Pipe()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(genai_worker, "SEND_INTERVAL_S", math.inf)
        patch.setattr(genai_worker, "SEND_INTERVAL_ALONE_S", math.inf)
        thread = threading.Thread(target=run_until_closed, args=(genai_worker.Worker(pipeline, there),))
        thread.start()
        yield here
        here.close()
        thread.join()


class SteppedPipeline:
    """A pipeline that takes a step only when the test allows one."""

    def __init__(self, pipeline: ov_genai.ContinuousBatchingPipeline) -> None:
        self._pipeline = pipeline
        self.arrived, self.allowed = threading.Semaphore(0), threading.Semaphore(0)
        self.add_request, self.get_metrics = pipeline.add_request, pipeline.get_metrics

    def step(self) -> None:
        self.arrived.release()
        self.allowed.acquire()
        self._pipeline.step()

    def advance(self, steps: int) -> None:
        """Allow steps; return when the worker has taken its messages for the next one."""
        self.allowed.release(steps)
        for _ in range(steps):
            self.arrived.acquire()


def exact_pipeline(int8_model: Path, *, prefix_caching: bool) -> ov_genai.ContinuousBatchingPipeline:
    scheduler = ov_genai.SchedulerConfig()
    scheduler.cache_size = 1
    scheduler.enable_prefix_caching = prefix_caching
    scheduler.max_num_batched_tokens = genai_worker.MAX_BATCHED_TOKENS
    return ov_genai.ContinuousBatchingPipeline(int8_model, scheduler, "CPU", json.loads(EXACT))


def test_who_leaves_during_a_prefill_leaves_nothing_wrong_in_the_prefix_cache(int8_model):
    """Beside an answer, the parts of a prompt do not end where blocks of the cache do."""
    draw = random.Random(1)
    prompt = [draw.randrange(1000, 40_000) for _ in range(400)]  # four steps
    config = {"max_new_tokens": 3, "ignore_eos": True, "logprobs": 1}

    def logprobs(connection: Connection, request_id: int) -> list[float]:
        connection.send(Request(request_id, [prompt], [config], None, eager=False))
        events = itertools.chain(*messages(connection, 1))
        return [p for event in events if isinstance(event, Tokens) for p in event.logprobs]

    found = []
    for prefix_caching in (False, True):
        pipeline = SteppedPipeline(exact_pipeline(int8_model, prefix_caching=prefix_caching))
        here, there = multiprocessing.Pipe()
        worker = threading.Thread(target=run_until_closed, args=(genai_worker.Worker(pipeline, there),))
        worker.start()
        here.send(request(1, COUNT))
        pipeline.arrived.acquire()  # at its first step
        pipeline.advance(3)
        here.send(Request(2, [prompt], [config], None, eager=False))
        pipeline.advance(3)
        here.send(Cancel(2))
        pipeline.advance(1)
        pipeline.allowed.release(1000)
        list(messages(here, 2))
        found.append(logprobs(here, 3))
        here.close()
        worker.join()
    assert found[1] == pytest.approx(found[0], abs=1e-3)


def request(request_id: int, count: int, *, eager: bool = False) -> Request:
    return Request(request_id, [PROMPT], [{"max_new_tokens": count, "ignore_eos": True}], None, eager)


def messages(connection: Connection, ends: int) -> Iterator[Events]:
    while ends:
        events = connection.recv()
        ends -= sum(isinstance(event, End) for event in events)
        yield events


def tokens_per_message(connection: Connection, *, eager: bool = False) -> list[int]:
    connection.send(request(1, COUNT, eager=eager))
    return [sum(len(e.token_ids) for e in events if isinstance(e, Tokens)) for events in messages(connection, 1)]


def test_a_request_has_its_first_token_at_once_and_the_others_at_the_end(connection):
    assert tokens_per_message(connection) == [1, COUNT - 1]


def test_an_eager_request_has_each_token_at_once(connection):
    assert tokens_per_message(connection, eager=True) == [1] * COUNT


def test_tokens_are_sent_when_the_interval_has_passed(connection, monkeypatch):
    monkeypatch.setattr(genai_worker, "SEND_INTERVAL_ALONE_S", 0)
    assert tokens_per_message(connection) == [1] * COUNT


def test_requests_beside_each_other_have_theirs_together_but_for_the_first_and_the_end(connection):
    for request_id in (1, 2):
        connection.send(request(request_id, COUNT))
    received = list(messages(connection, 2))
    tokens = Counter()
    for event in itertools.chain(*received):
        if isinstance(event, Tokens):
            tokens[event.request_id] += len(event.token_ids)
    assert tokens == {1: COUNT, 2: COUNT}
    assert len(received) <= 4
