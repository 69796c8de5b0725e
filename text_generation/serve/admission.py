"""Admission control: which requests run, wait, or are refused."""

import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from text_generation.errors import BusyError


class Place:
    """A request's place among the running requests or, until its turn comes, in the queue."""

    def __init__(self, tokens: int, timeout_s: float):
        self.tokens = tokens
        self.turn = threading.Event()
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s

    def wait(self, seconds: float) -> bool:
        """Wait at most this long and return whether the request may run; BusyError once its total wait is too long."""
        left = max(self._deadline - time.monotonic(), 0)
        if self.turn.wait(min(left, seconds)):
            return True
        if left <= seconds:
            raise BusyError(f"busy: no place within QUEUE_TIMEOUT_S = {self._timeout_s:g} s; try again later")
        return False


class Admission:
    """Lets `capacity` requests run at once; up to `max_queued` more wait in order, each for at most `timeout_s`.

    The running requests may use `max_tokens` tokens in total; a request that needs more than that runs alone.
    """

    def __init__(self, capacity: int, max_queued: int, timeout_s: float, max_tokens: float = math.inf):
        self._capacity, self._max_queued, self._timeout_s = capacity, max_queued, timeout_s
        self._max_tokens = max_tokens
        self._lock = threading.Lock()
        self._running = 0
        self._tokens = 0
        self._waiting: deque[Place] = deque()

    @property
    def running(self) -> int:
        """Number of running requests."""
        return self._running

    @property
    def waiting(self) -> int:
        """Number of waiting requests."""
        return len(self._waiting)

    @property
    def reserved_share(self) -> float:
        """Share of `max_tokens` reserved for the running requests."""
        return self._tokens / self._max_tokens

    @contextmanager
    def place(self, tokens: int = 0) -> Iterator[Place]:
        """Yield a place, on which to wait, for a request of up to `tokens` tokens; BusyError if the queue is full.

        Leaving the block gives the place up, whether the request was running or waiting.
        """
        place = self._enter(tokens)
        try:
            yield place
        finally:
            self._leave(place)

    def _enter(self, tokens: int) -> Place:
        place = Place(tokens, self._timeout_s)
        with self._lock:
            if not self._waiting and self._fits(tokens):
                self._let_in(place)
            elif len(self._waiting) < self._max_queued:
                self._waiting.append(place)
            else:
                raise BusyError(
                    f"busy: {self._running} requests are running and {len(self._waiting)} waiting, as many as "
                    "MAX_CONCURRENT_REQUESTS, KV_CACHE_GB and MAX_QUEUED_REQUESTS allow; try again later"
                )
        return place

    def _leave(self, place: Place) -> None:
        with self._lock:
            if place.turn.is_set():
                self._running -= 1
                self._tokens -= place.tokens
            else:
                self._waiting.remove(place)
            # Even if it was only waiting: those behind it may need fewer tokens.
            while self._waiting and self._fits(self._waiting[0].tokens):
                self._let_in(self._waiting.popleft())

    def _fits(self, tokens: int) -> bool:
        return self._running == 0 or (self._running < self._capacity and self._tokens + tokens <= self._max_tokens)

    def _let_in(self, place: Place) -> None:
        self._running += 1
        self._tokens += place.tokens
        place.turn.set()
