"""Observes requests from arrival to end, for one log line each and for the metrics."""

import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from text_generation.errors import error_kind, log_failure
from text_generation.wording import counted

if TYPE_CHECKING:
    from text_generation.serve.generation import Completion
    from text_generation.serve.metrics import Metrics

logger = logging.getLogger(__name__)

CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """The outcome of a request. Times are in seconds, and None if it did not get that far.

    `ended` is why it ended: the finish reasons of its completions, CANCELLED if its client left, or the kind of an
    error. A request that was refused on arrival has no prompts.
    """

    request_id: str
    ended: str
    prompt_tokens: tuple[int, ...]
    completion_tokens: tuple[int, ...]
    finish_reasons: tuple[str | None, ...]
    queue_s: float | None
    first_token_s: float | None
    prefill_s: float | None
    decode_s: float | None
    total_s: float

    def fields(self) -> dict[str, object]:
        """Return the fields of the access line for JSON."""
        return {
            "request_id": self.request_id,
            "ended": self.ended,
            "prompts": len(self.prompt_tokens),
            "prompt_tokens": sum(self.prompt_tokens),
            "completion_tokens": sum(self.completion_tokens),
            "queue_s": _rounded(self.queue_s),
            "first_token_s": _rounded(self.first_token_s),
            "total_s": _rounded(self.total_s),
        }

    def __str__(self) -> str:
        """Format the access line as text."""
        if not self.prompt_tokens:
            return f"refused in {self.total_s:.2f} s; {self.ended}; request {self.request_id}"
        queue, first_token = (
            "-" if seconds is None else f"{seconds:.2f} s" for seconds in (self.queue_s, self.first_token_s)
        )
        prompts, tokens = counted(len(self.prompt_tokens), "prompt"), counted(sum(self.completion_tokens), "token")
        return (
            f"{prompts}: {tokens} generated in {self.total_s:.2f} s"
            f"; {counted(sum(self.prompt_tokens), 'prompt token')}, queue {queue}, first token {first_token}"
            f"; {self.ended}; request {self.request_id}"
        )


class Observation:
    """A context in which one request is handled. It records the times and, at the end, logs the outcome, including any
    error, and updates the metrics, if there are any."""

    def __init__(self, metrics: "Metrics | None" = None):
        self.request_id = secrets.token_hex(8)
        self._metrics = metrics
        self._prompt_tokens: Sequence[int] = ()
        self._completions: Sequence[Completion] = ()
        self._arrived = time.monotonic()
        self._queued: float | None = None
        self._admitted: float | None = None
        self._first_token: float | None = None
        self._last_token: float | None = None

    def generating(self, prompt_tokens: Sequence[int], completions: "Sequence[Completion]") -> None:
        """Record the prompts' lengths in tokens, and the completions that will answer them."""
        self._prompt_tokens, self._completions = prompt_tokens, completions

    def queued(self) -> None:
        """Record that the request starts to wait for a place."""
        self._queued = time.monotonic()

    def admitted(self) -> None:
        """Record that the request got its place."""
        self._admitted = time.monotonic()
        if self._metrics is not None and self._queued is not None:
            self._metrics.admitted(self._admitted - self._queued, sum(self._prompt_tokens))

    def step(self, tokens: int, completions: int) -> None:
        """Record a step that generated this many tokens, at least one, for this many completions."""
        now = time.monotonic()
        if self._last_token is None:
            self._first_token = now
            if self._metrics is not None:
                self._metrics.first_token(now - self._arrived, tokens)
        elif self._metrics is not None:
            # If its reader was slow, several tokens of one completion arrive together.
            self._metrics.tokens(tokens, (now - self._last_token) * completions / tokens)
        self._last_token = now

    def __enter__(self) -> "Observation":
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            log_failure(error, self.request_id)
        record = self._record(error)
        logger.info("%s", record, extra={"fields": record.fields()})
        if self._metrics is not None:
            self._metrics.ended(record, failed=isinstance(error, Exception))

    def _record(self, error: BaseException | None) -> RequestRecord:
        now = time.monotonic()
        finish_reasons = tuple(completion.finish_reason for completion in self._completions)
        if isinstance(error, Exception):
            ended = error_kind(error)
        elif error is None and finish_reasons and all(finish_reasons):
            ended = ", ".join(sorted({reason for reason in finish_reasons if reason}))
        else:
            ended = CANCELLED
        return RequestRecord(
            request_id=self.request_id,
            ended=ended,
            prompt_tokens=tuple(self._prompt_tokens),
            completion_tokens=tuple(len(completion.token_ids) for completion in self._completions),
            finish_reasons=finish_reasons,
            # Also for a request that left the queue without getting a place.
            queue_s=_between(self._queued, now if self._admitted is None else self._admitted),
            first_token_s=_between(self._arrived, self._first_token),
            prefill_s=_between(self._admitted, self._first_token),
            decode_s=_between(self._first_token, self._last_token),
            total_s=now - self._arrived,
        )


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else end - start


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
