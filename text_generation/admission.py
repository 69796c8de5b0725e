"""Who may run now, who waits, who is turned away."""

import math
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from text_generation.errors import BusyError


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    tokens: int
    turn: threading.Event = field(default_factory=threading.Event)


class Admission:
    """Places for `capacity` requests at once; up to `max_queued` more wait in order, each `timeout_s` at most.

    The requests that run have room for `max_tokens` tokens in all, but one that needs more than that may run alone.
    """

    def __init__(self, capacity: int, max_queued: int, timeout_s: float, max_tokens: float = math.inf):
        self._capacity, self._max_queued, self._timeout_s = capacity, max_queued, timeout_s
        self._max_tokens = max_tokens
        self._lock = threading.Lock()
        self._running = 0
        self._tokens = 0
        self._waiting: deque[_Waiting] = deque()

    @contextmanager
    def place(self, tokens: int = 0) -> Iterator[None]:
        """Hold a place for a request of up to `tokens` tokens; BusyError where queue or wait are too long."""
        self._enter(tokens)
        try:
            yield
        finally:
            self._leave(tokens)

    def _enter(self, tokens: int) -> None:
        with self._lock:
            if not self._waiting and self._fits(tokens):
                self._take(tokens)
                return
            if len(self._waiting) >= self._max_queued:
                raise BusyError(
                    f"busy: {self._running} requests are running and {len(self._waiting)} waiting, as many as "
                    "MAX_CONCURRENT_REQUESTS, KV_CACHE_GB and MAX_QUEUED_REQUESTS allow; try again later"
                )
            waiting = _Waiting(tokens)
            self._waiting.append(waiting)
        if waiting.turn.wait(self._timeout_s):
            return
        with self._lock:
            if waiting.turn.is_set():  # the place was handed over between the timeout and the lock
                return
            self._waiting.remove(waiting)
            self._call_next()  # those behind may need fewer tokens
        raise BusyError(f"busy: no place within QUEUE_TIMEOUT_S = {self._timeout_s:g} s; try again later")

    def _leave(self, tokens: int) -> None:
        with self._lock:
            self._running -= 1
            self._tokens -= tokens
            self._call_next()

    def _call_next(self) -> None:
        while self._waiting and self._fits(self._waiting[0].tokens):
            first = self._waiting.popleft()
            self._take(first.tokens)
            first.turn.set()

    def _fits(self, tokens: int) -> bool:
        return self._running == 0 or (self._running < self._capacity and self._tokens + tokens <= self._max_tokens)

    def _take(self, tokens: int) -> None:
        self._running += 1
        self._tokens += tokens
