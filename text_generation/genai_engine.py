"""OpenVINO GenAI's continuous batching: requests join and leave one running batch at any step."""

import contextlib
import itertools
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
from tokenizers import Tokenizer

from text_generation.engine import KEEPALIVE_S, Engine, Step
from text_generation.genai_messages import Cancel, End, PipelineSettings, Request, Tokens
from text_generation.sampling import SamplingParams
from text_generation.settings import Settings

logger = logging.getLogger(__name__)


class GenaiEngine(Engine):
    """The pipeline steps in a process of its own. A thread here puts what comes from it into a queue per request, from
    which the request's own thread takes all that has piled up as one step of its Generation.

    Where the process dies, what ran is lost with an error, and another one takes its place.
    """

    def __init__(self, settings: Settings, tokenizer: Tokenizer):
        super().__init__(settings, tokenizer)
        self._request_ids = itertools.count()
        self._queues: dict[int, SimpleQueue[Tokens | End]] = {}  # by request_id
        # Guards sending to the process, its replacement, and `_closed`.
        self._lock = threading.Lock()
        self._closed = False
        self._process = _Process(settings)
        self._thread = threading.Thread(target=self._hand_out, name="genai-engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._process.kill()
        self._thread.join()

    def _generate(self, prompts: list[list[int]], budgets: list[int], sampling: SamplingParams) -> Generator[Step]:
        request_id = next(self._request_ids)
        configs = [self._generation_config(budget, sampling) for budget in budgets]
        queue = SimpleQueue()
        with self._lock:
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._queues[request_id] = queue
            self._process.send(Request(request_id, prompts, configs))
        try:
            yield from self._steps(queue, len(prompts), sampling)
        finally:
            with self._lock:
                if self._queues.pop(request_id, None) is not None:
                    self._process.send(Cancel(request_id))

    def _generation_config(self, max_new_tokens: int, sampling: SamplingParams) -> dict[str, Any]:
        config = {
            "max_new_tokens": max_new_tokens,
            "repetition_penalty": sampling.repetition_penalty,
            "ignore_eos": sampling.ignore_eos,
        }
        if not sampling.ignore_eos:
            config["stop_token_ids"] = set(self._stop_token_ids)
        if sampling.temperature > 0:
            config |= {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k or self._tokenizer.get_vocab_size(),
                "rng_seed": int(np.random.SeedSequence(sampling.seed).generate_state(1)[0]),
            }
        return config

    def _steps(self, queue: SimpleQueue[Tokens | End], count: int, sampling: SamplingParams) -> Generator[Step]:
        """All that has come since the last step; an empty step where nothing has come for a while."""
        left_out = frozenset() if sampling.ignore_eos else self._stop_token_ids
        end = None
        while end is None:
            step = [[] for _ in range(count)]
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
                    step[event.row] += [token_id for token_id in event.token_ids if token_id not in left_out]
            if any(step):
                yield step
        if end.error is not None:
            raise end.error

    def _hand_out(self) -> None:
        while True:
            try:
                events = self._process.connection.recv()
            except (EOFError, OSError):
                if self._replace_process():
                    continue
                return
            for event in events:
                take = self._queues.pop if isinstance(event, End) else self._queues.get
                if (queue := take(event.request_id, None)) is not None:
                    queue.put(event)

    def _replace_process(self) -> bool:
        """Tell those who wait that nothing comes any more, and start anew; False where the engine is closed."""
        with self._lock:
            exit_code = self._process.kill()
            reason = "the engine was closed" if self._closed else f"the generating process ended ({exit_code})"
            while self._queues:
                request_id, queue = self._queues.popitem()
                queue.put(End(request_id, RuntimeError(reason)))
            if not self._closed:
                logger.error("%s: starting another one", reason)
                try:
                    self._process = _Process(self._settings)
                except Exception as error:
                    logger.error("it can't be started: %s", error)
                    self._closed = True
            return not self._closed


class _Process:
    """A worker process with the pipeline loaded, and the connection to it."""

    def __init__(self, settings: Settings):
        self.connection, other_end = multiprocessing.Pipe()
        with other_end:
            self._process = subprocess.Popen(
                [_python(), "-c", "from text_generation.genai_worker import main; main()", str(other_end.fileno())],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                pass_fds=[other_end.fileno()],
                start_new_session=True,  # Ctrl-C is for the server, which ends this process in its turn
            )
        try:
            self.connection.send(
                PipelineSettings(settings.model_path, settings.device, settings.ov_config, settings.kv_cache_gb)
            )
            error = self.connection.recv()
            if error is not None:
                raise error
        except BaseException as error:
            exit_code = self.kill()
            if isinstance(error, EOFError | OSError):
                raise RuntimeError(f"the generating process ended while it loaded ({exit_code})") from error
            raise

    def send(self, message: Request | Cancel) -> None:
        """Send; what can't be received any more is dropped, as the thread that reads learns of the end too."""
        with contextlib.suppress(OSError):
            self.connection.send(message)

    def kill(self) -> int:
        """End it at once, which loses nothing that lasts; the exit code."""
        self._process.kill()
        return self._process.wait()


def _python() -> str:
    """The interpreter's program; inside the model server sys.executable may be the server's."""
    if Path(sys.executable).name.startswith("python"):
        return sys.executable
    return shutil.which("python3") or "python3"
