"""Who may run now, who waits, who is turned away."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from text_generation.errors import BusyError


class Admission:
    """Places for `capacity` requests at once; up to `max_queued` more wait in order, each `timeout_s` at most."""

    def __init__(self, capacity: int, max_queued: int, timeout_s: float):
        self._capacity, self._max_queued, self._timeout_s = capacity, max_queued, timeout_s
        self._lock = threading.Lock()
        self._running = 0
        self._waiting: deque[threading.Event] = deque()

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place; BusyError where the queue is full or the wait too long."""
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def _enter(self) -> None:
        with self._lock:
            if self._running < self._capacity:
                self._running += 1
                return
            if len(self._waiting) >= self._max_queued:
                raise BusyError(
                    f"busy: {self._running} requests are running and {len(self._waiting)} waiting, which is "
                    "MAX_CONCURRENT_REQUESTS and MAX_QUEUED_REQUESTS; try again later"
                )
            turn = threading.Event()
            self._waiting.append(turn)
        if turn.wait(self._timeout_s):
            return
        with self._lock:
            if turn.is_set():  # the place was handed over between the timeout and the lock
                return
            self._waiting.remove(turn)
        raise BusyError(f"busy: no place within QUEUE_TIMEOUT_S = {self._timeout_s:g} s; try again later")

    def _leave(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()  # the place goes to the first in line without becoming free in between
            else:
                self._running -= 1
