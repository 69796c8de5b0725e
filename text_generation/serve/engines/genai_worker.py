"""The process that runs GenAI's pipeline: it receives prompts and sends token ids over a connection.

`ContinuousBatchingPipeline.step()` holds Python's global interpreter lock from start to end. In the server's process it
would block everything else: sending text pieces to clients, and health checks.
"""

import itertools
import os
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import numpy as np
import openvino as ov
import openvino_genai as ov_genai

from text_generation.errors import RequestError
from text_generation.serve.engines.device import compile_options
from text_generation.serve.engines.genai_messages import (
    CacheUsage,
    Cancel,
    End,
    Events,
    PipelineSettings,
    Request,
    Tokens,
)

# Tokens per step, for the running answers and a part of a waiting prompt. Half of GenAI's default halves the pause that
# a long prompt causes in all other answers, and hardly delays its own first token (benchmarks/README.md).
MAX_BATCHED_TOKENS = 128
# Minimum interval between messages while several requests run, and while one runs alone. Each message wakes a server
# thread and a client per request on cores that the pipeline needs, and readers can't tell 25 updates per second from
# 60.
SEND_INTERVAL_S = 0.04
SEND_INTERVAL_ALONE_S = 0.02


class Worker:
    """Steps the pipeline while there are requests, which may join and leave between two steps."""

    def __init__(self, pipeline: ov_genai.ContinuousBatchingPipeline, connection: Connection):
        self._pipeline = pipeline
        self._connection = connection
        self._handle_ids = itertools.count()
        self._running: dict[int, _Running] = {}  # by request_id
        self._cache_usage = CacheUsage(0.0)
        self._begun: set[int] = set()  # request_ids with at least one token
        self._unsent: Events = []
        self._last_sent = 0.0

    def run(self) -> None:
        """Serve until the connection is closed (EOFError)."""
        while True:
            while not self._running or self._connection.poll():
                self._take(self._connection.recv())
            try:
                self._pipeline.step()
            except Exception as error:
                failure = RuntimeError(self._told(error))
                self._connection.send([*self._unsent, *(End(request_id, failure) for request_id in self._running)])
                raise failure from None  # the pipeline's state is unknown now; the engine starts a new worker
            events = self._collect()
            self._unsent += events
            if self._is_due(events):
                self._connection.send(self._unsent)
                self._unsent, self._last_sent = [], time.monotonic()

    def _take(self, message: Request | Cancel) -> None:
        running = self._running.get(message.request_id)
        if isinstance(message, Request):
            running = _Running(message)
            try:
                running.start(self._pipeline, self._handle_ids)
            except Exception as error:
                running.cancel()
                self._connection.send([End(message.request_id, RuntimeError(str(error)))])
            else:
                self._running[message.request_id] = running
        elif running is not None:
            running.drop()

    def _told(self, error: Exception) -> str:
        """Return the text of a failed step's error, which all requests and the log get. With a JSON schema it may quote
        that, which is one user's text."""
        if any(running.has_schema for running in self._running.values()):
            return "the pipeline failed while an answer had to match a JSON schema"
        return str(error)

    def _collect(self) -> Events:
        events: Events = []
        for request_id, running in list(self._running.items()):
            events += running.collect()
            if running.over:
                del self._running[request_id]
        # When nothing runs any more, the pipeline's own figure remains that of the last step.
        usage = CacheUsage(self._pipeline.get_metrics().cache_usage / 100 if self._running else 0.0)
        if usage != self._cache_usage:
            self._cache_usage = usage
            events.append(usage)
        return events

    def _is_due(self, events: Events) -> bool:
        """Whether to send now: a request is eager, got its first token or has ended, or the interval has passed."""
        begun = {event.request_id for event in events if isinstance(event, Tokens)}
        awaited = (
            not begun <= self._begun
            or any(isinstance(event, End) for event in events)
            or any(running.eager for running in self._running.values())
        )
        self._begun = (self._begun | begun) & self._running.keys()
        interval = SEND_INTERVAL_ALONE_S if len(self._running) == 1 else SEND_INTERVAL_S
        return awaited or time.monotonic() - self._last_sent >= interval


class _Running:
    """A request in the pipeline, with a handle for each prompt that has not ended."""

    def __init__(self, request: Request):
        self._request = request
        self._handles: dict[int, ov_genai.GenerationHandle] = {}  # by the prompt's index in the request
        self._dropped = False
        self._error: Exception | None = None

    def start(self, pipeline: ov_genai.ContinuousBatchingPipeline, handle_ids: Iterator[int]) -> None:
        """Add the prompts to the pipeline, which raises if it rejects one."""
        extra = {}
        if self._request.json_schema is not None:
            extra["structured_output_config"] = ov_genai.StructuredOutputConfig(json_schema=self._request.json_schema)
        for row, (prompt, config) in enumerate(zip(self._request.prompts, self._request.configs, strict=True)):
            token_ids = ov.Tensor(np.array([prompt], dtype=np.int64))
            generation_config = ov_genai.GenerationConfig(**config, **extra)
            self._handles[row] = pipeline.add_request(next(handle_ids), token_ids, generation_config)

    @property
    def eager(self) -> bool:
        """Whether each of its tokens is needed at once."""
        return self._request.eager

    @property
    def over(self) -> bool:
        """Whether all prompts have ended."""
        return not self._handles

    @property
    def has_schema(self) -> bool:
        """Whether its completions must match a JSON schema."""
        return self._request.json_schema is not None

    def cancel(self) -> None:
        """Make the pipeline drop the prompts at its next step, none of which it may have begun."""
        for handle in self._handles.values():
            handle.cancel()

    def drop(self) -> None:
        """Make the pipeline drop each prompt once it has a token.

        If it dropped one in the middle of its prefill, a block of keys and values that is filled in part could stay in
        the prefix cache as a complete one, and all later prompts that begin alike would get wrong answers (2026.4.1).
        """
        self._dropped = True

    def collect(self) -> Events:
        """Return the events of the last step."""
        request_id = self._request.request_id
        events: Events = []
        for row, handle in list(self._handles.items()):
            status = handle.get_status()  # before reading, so that no tokens are missed when it has ended
            got_tokens = handle.can_read()
            while handle.can_read():
                for output in handle.read().values():
                    logprobs = output.generated_log_probs if self._request.configs[row].get("logprobs") else []
                    events.append(Tokens(request_id, row, output.generated_ids, logprobs))
            if status == ov_genai.GenerationStatus.IGNORED:
                self._error = RequestError("prompt and completion do not fit into the KV cache: raise KV_CACHE_GB")
                self.drop()
            if status != ov_genai.GenerationStatus.RUNNING:
                del self._handles[row]
            elif self._dropped and got_tokens:
                handle.cancel()
        if self.over:
            events.append(End(request_id, self._error))
        return events


def main() -> None:
    """Load the pipeline and serve; the argument is the file descriptor of the connection."""
    connection = Connection(int(sys.argv[1]))
    settings: PipelineSettings = connection.recv()
    try:
        scheduler = ov_genai.SchedulerConfig()
        scheduler.cache_size = settings.kv_cache_gb
        scheduler.enable_prefix_caching = settings.prefix_caching
        scheduler.max_num_batched_tokens = MAX_BATCHED_TOKENS
        device, ov_config = compile_options(settings.device, settings.ov_config)
        pipeline = ov_genai.ContinuousBatchingPipeline(settings.model_path, scheduler, device, ov_config)
    except Exception as error:
        connection.send(RuntimeError(str(error)))
        return
    connection.send(None)
    try:
        Worker(pipeline, connection).run()
    except (EOFError, OSError):
        os._exit(0)  # the server is gone; the pipeline's destructor would complain about unfinished requests


if __name__ == "__main__":
    main()
