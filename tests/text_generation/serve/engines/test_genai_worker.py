"""The messages of GenAI's process, and their times."""

import contextlib
import itertools
import math
import multiprocessing
import threading
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import openvino_genai as ov_genai
import pytest

from text_generation.serve.engines import genai_worker
from text_generation.serve.engines.genai_messages import End, Events, Request, Tokens

pytestmark = pytest.mark.slow
PROMPT = [504, 3575, 282]
COUNT = 60


@pytest.fixture(scope="module")
def connection(int8_model: Path) -> Iterator[Connection]:
    """The server's end of a connection to a worker that sends only awaited events, however long that takes."""
    pipeline = ov_genai.ContinuousBatchingPipeline(int8_model, ov_genai.SchedulerConfig(), "CPU")
    here, there = multiprocessing.Pipe()

    def run() -> None:
        with contextlib.suppress(EOFError, OSError):
            genai_worker.Worker(pipeline, there).run()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(genai_worker, "SEND_INTERVAL_S", math.inf)
        patch.setattr(genai_worker, "SEND_INTERVAL_ALONE_S", math.inf)
        thread = threading.Thread(target=run)
        thread.start()
        yield here
        here.close()
        thread.join()


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
