import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from text_generation.errors import BusyError
from text_generation.serve.admission import Admission


def wait_until_queued(admission: Admission, count: int) -> None:
    """Wait until `count` requests are waiting; this reads a private attribute, as the interface has no notification."""
    while len(admission._waiting) < count:
        threading.Event().wait(0.001)


def test_capacity_is_never_exceeded_and_everyone_gets_a_place():
    admission = Admission(capacity=3, max_queued=100, timeout_s=60)
    inside, most, lock = 0, 0, threading.Lock()
    all_places_taken = threading.Barrier(3, timeout=30)

    def work():
        nonlocal inside, most
        with admission.place() as place:
            assert place.wait(60)
            with lock:
                inside += 1
                most = max(most, inside)
            all_places_taken.wait()
            with lock:
                inside -= 1

    with ThreadPoolExecutor(20) as pool:
        for future in [pool.submit(work) for _ in range(60)]:
            future.result()
    assert (inside, most) == (0, 3)


def test_those_who_wait_are_served_in_order():
    admission = Admission(capacity=1, max_queued=10, timeout_s=60)
    served = []

    def work(number):
        with admission.place() as place:
            assert place.wait(60)
            served.append(number)

    with ThreadPoolExecutor(5) as pool, admission.place():
        for number in range(5):
            pool.submit(work, number)
            wait_until_queued(admission, number + 1)
    assert served == list(range(5))


def test_a_full_queue_turns_away_at_once_and_names_the_limits():
    admission = Admission(capacity=1, max_queued=0, timeout_s=60)
    with (
        admission.place(),
        pytest.raises(BusyError, match="MAX_CONCURRENT_REQUESTS, KV_CACHE_GB and MAX_QUEUED_REQUESTS"),
    ):
        admission.place().__enter__()
    with admission.place() as place:
        assert place.wait(0)


def test_a_wait_that_is_too_long_ends_and_leaves_the_queue():
    admission = Admission(capacity=1, max_queued=1, timeout_s=0.02)
    with admission.place():
        for _ in range(2):  # the second finds the queue empty again
            with admission.place() as place:
                assert not place.wait(0.001)
                with pytest.raises(BusyError, match=r"QUEUE_TIMEOUT_S = 0\.02"):
                    place.wait(60)
    with admission.place() as place:
        assert place.wait(60)


def test_who_leaves_while_waiting_leaves_the_queue():
    admission = Admission(capacity=1, max_queued=1, timeout_s=60)
    with admission.place() as running:
        for _ in range(2):
            with admission.place() as place:
                assert not place.wait(0)
        assert running.wait(0)
    with admission.place() as place:
        assert place.wait(0)


def test_who_leaves_after_its_turn_came_unseen_gives_it_on():
    admission = Admission(capacity=1, max_queued=2, timeout_s=60)
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        first.enter_context(admission.place())
        second.enter_context(admission.place())
        with admission.place() as last:
            first.close()
            assert not last.wait(0)
            second.close()
            assert last.wait(0)


def test_a_place_is_given_back_after_an_error():
    admission = Admission(capacity=1, max_queued=0, timeout_s=0)
    with pytest.raises(ZeroDivisionError), admission.place():
        1 / 0  # noqa: B018
    with admission.place() as place:
        assert place.wait(0)


def test_requests_together_keep_to_the_tokens_that_there_is_room_for():
    admission = Admission(capacity=10, max_queued=0, timeout_s=0, max_tokens=100)
    with admission.place(60), admission.place(40), pytest.raises(BusyError, match="KV_CACHE_GB"):
        admission.place(1).__enter__()
    with admission.place(60), pytest.raises(BusyError):
        admission.place(41).__enter__()


def test_a_request_of_more_tokens_than_there_is_room_for_runs_alone():
    admission = Admission(capacity=10, max_queued=0, timeout_s=0, max_tokens=100)
    with admission.place(1), pytest.raises(BusyError):
        admission.place(101).__enter__()
    with admission.place(101), pytest.raises(BusyError):
        admission.place(1).__enter__()


def test_a_small_request_does_not_overtake_a_large_one_but_goes_on_when_that_gives_up():
    admission = Admission(capacity=10, max_queued=10, timeout_s=60, max_tokens=100)
    with admission.place(60), contextlib.ExitStack() as waiting:
        large = waiting.enter_context(admission.place(50))
        with admission.place(10) as small:
            assert not small.wait(0)
            assert not large.wait(0)
            waiting.close()
            assert small.wait(0)
