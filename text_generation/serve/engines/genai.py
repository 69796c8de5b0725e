"""OpenVINO GenAI's continuous batching: requests join and leave one running batch at any step."""

import contextlib
import itertools
import json
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from text_generation.model_folder import ModelFolderError, genai_differs, read_json
from text_generation.serve.engines.base import KEEPALIVE_S, Engine, NewTokens, Step, Work
from text_generation.serve.engines.genai_messages import CacheUsage, Cancel, End, PipelineSettings, Request, Tokens
from text_generation.serve.settings import Settings

logger = logging.getLogger(__name__)

_CLOSED = "the engine is closed"
_WORKER = "text_generation.serve.engines.genai_worker"


class GenaiEngine(Engine):
    """Runs the pipeline in a separate process. A thread here puts the tokens from that process into one queue per
    request, and the request's own thread takes everything that has queued up as one step of its Generation.

    If the process dies, running requests fail with an error and the thread starts another process, for which new
    requests wait. If that can't be started, they fail with the reason, and the next request triggers another attempt.
    """

    supports_response_format = True

    def __init__(self, settings: Settings):
        path = settings.model_path / "config.json"
        if genai_differs(read_json(path)):
            raise ModelFolderError(f"{path} describes a model that GenAI runs incorrectly: use ENGINE=optimum")
        self._settings = settings
        self._request_ids = itertools.count()
        # Guards the fields below. `_requests` are those that have not ended; they are sent once the process is ready.
        self._changed = threading.Condition()
        self._requests: dict[int, tuple[Request, SimpleQueue[Tokens | End]]] = {}
        self._closed = False
        self._ready = False
        self._cache_usage = 0.0
        self._process = _Process(settings)
        self._thread = threading.Thread(target=self._dispatch_events, name="genai-engine", daemon=True)

    def wait_ready(self) -> None:
        self._process.wait_loaded()
        self._ready = True
        self._thread.start()

    @property
    def cache_usage(self) -> float:
        return self._cache_usage

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._process.kill()
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def generate(self, work: Work) -> Generator[Step]:
        schema = work.sampling.response_format and work.sampling.response_format.schema_of_answer
        request = Request(
            next(self._request_ids),
            work.prompts,
            _generation_configs(work),
            None if schema is None else json.dumps(schema),
            work.eager,
        )
        queue: SimpleQueue[Tokens | End] = SimpleQueue()
        with self._changed:
            if self._closed:
                raise RuntimeError(_CLOSED)
            self._requests[request.request_id] = request, queue
            if self._ready:
                self._process.send(request)
            self._changed.notify()
        waiting = set(range(len(work.prompts)))  # prompts without a token
        try:
            for step in _steps(queue, len(work.prompts)):
                waiting.difference_update(row for row, tokens in enumerate(step) if tokens.ids)
                yield step
        finally:
            # The process finishes the prefill of prompts that wait. Until then, this request must not make room for
            # others. (The garbage collector may close this generator in any thread, also the one that fills the queue.)
            if self._cancel(request.request_id) and waiting and threading.current_thread() is not self._thread:
                while not isinstance(queue.get(), End):
                    pass

    def _cancel(self, request_id: int) -> bool:
        """Stop a request, if it has not ended; return whether its queue will get an End."""
        with self._changed:
            if request_id not in self._requests:
                return False
            if not self._ready:
                del self._requests[request_id]
                return False
            self._process.send(Cancel(request_id))
            return True

    def _dispatch_events(self) -> None:
        while True:
            try:
                events = self._process.connection.recv()
            except Exception:  # the process has ended, or its message can't be read
                if self._replace_process():
                    continue
                return
            for event in events:
                if isinstance(event, CacheUsage):
                    self._cache_usage = event.share
                    continue
                take = self._requests.pop if isinstance(event, End) else self._requests.get
                if (found := take(event.request_id, None)) is not None:
                    _, queue = found
                    queue.put(event)

    def _replace_process(self) -> bool:
        """Fail the running requests and start another process, retrying with the next request if that fails.

        Returns False if the engine is closed.
        """
        reason = f"the generating process ended ({self._process.exit_code()})"
        with self._changed:
            self._ready = False
            self._cache_usage = 0.0
            self._end_all(reason)
        while not self._closed:
            logger.error("%s: starting a new one", reason)
            try:
                with self._changed:
                    if self._closed:
                        break
                    self._process = _Process(self._settings)
                self._process.wait_loaded()
            except Exception as error:
                reason = f"the generating process can't be started: {error}"
                with self._changed:
                    self._end_all(reason)
                    self._changed.wait_for(lambda: self._requests or self._closed)
            else:
                with self._changed:
                    self._ready = True
                    for request, _ in self._requests.values():
                        self._process.send(request)
                return True
        with self._changed:
            self._end_all(_CLOSED)
        return False

    def _end_all(self, reason: str) -> None:
        error = RuntimeError(_CLOSED if self._closed else reason)
        while self._requests:
            request_id, (_, queue) = self._requests.popitem()
            queue.put(End(request_id, error))


class _Process:
    """A worker process, which starts to load the pipeline, and the connection to it."""

    def __init__(self, settings: Settings):
        self.connection, other_end = multiprocessing.Pipe()
        with other_end:
            self._process = subprocess.Popen(
                # -P: import nothing from the server's working directory
                [_python(), "-P", "-m", _WORKER, str(other_end.fileno())],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                pass_fds=[other_end.fileno()],
                start_new_session=True,  # Ctrl-C is for the server, which then ends this process
            )
        self.send(
            PipelineSettings(
                settings.model_path,
                settings.device,
                settings.ov_config,
                settings.kv_cache_gb,
                settings.prefix_caching,
            )
        )

    def wait_loaded(self) -> None:
        """Wait until the pipeline is loaded; if loading fails, end the process and raise the error."""
        try:
            error = self.connection.recv()
        except (EOFError, OSError):
            error = RuntimeError(f"the generating process ended while loading ({self.exit_code()})")
        if error is not None:
            self.kill()
            raise error

    def send(self, message: PipelineSettings | Request | Cancel) -> None:
        """Send a message; if the process has ended, the message is dropped, and the reading thread notices the end."""
        with contextlib.suppress(OSError):
            self.connection.send(message)

    def exit_code(self) -> int:
        """Return the exit code after the connection has ended, which may be shortly before the process itself ends."""
        try:
            return self._process.wait(5)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """Kill the process, which holds no persistent state, and return its exit code."""
        self._process.kill()
        return self._process.wait()


def _generation_configs(work: Work) -> list[dict[str, Any]]:
    """Return the fields of a GenerationConfig per prompt. Each prompt gets its own seed, derived from the request's."""
    sampling = work.sampling
    config = {
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "stop_token_ids": set(work.stop_token_ids),
        # With no stop tokens, the pipeline would use the model folder's own.
        "ignore_eos": not work.stop_token_ids,
        "logprobs": int(sampling.logprobs),
    }
    seeds = np.random.SeedSequence(sampling.seed).generate_state(len(work.prompts)).tolist()
    if not sampling.greedy:
        config |= {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or np.iinfo(np.int32).max,
            "min_p": sampling.min_p,
        }
    return [
        config | {"max_new_tokens": budget, "rng_seed": seed} for budget, seed in zip(work.budgets, seeds, strict=True)
    ]


def _steps(queue: SimpleQueue[Tokens | End], count: int) -> Generator[Step]:
    """Yield everything received since the last step; an empty step if nothing was received for KEEPALIVE_S."""
    end = None
    while end is None:
        step = [NewTokens() for _ in range(count)]
        try:
            events = [queue.get(timeout=KEEPALIVE_S)]
        except Empty:
            yield step
            continue
        while not queue.empty():
            events.append(queue.get())
        for event in events:
            if isinstance(event, End):
                end = event
            else:
                step[event.row].ids += event.token_ids
                step[event.row].logprobs += event.logprobs
        if any(tokens.ids for tokens in step):
            yield step
    if end.error is not None:
        raise end.error


def _python() -> str:
    """Return the Python interpreter's path; inside the model server, sys.executable may be the server's."""
    if Path(sys.executable).name.startswith("python"):
        return sys.executable
    return shutil.which("python3") or "python3"
