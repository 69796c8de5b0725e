"""OpenVINO GenAI's continuous batching: requests join and leave one running batch at any step."""

import itertools
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np
import openvino as ov
import openvino_genai as ov_genai
from tokenizers import Tokenizer

from text_generation.engine import Engine, Step
from text_generation.errors import RequestError
from text_generation.sampling import SamplingParams
from text_generation.settings import Settings

# A step keeps Python's global lock from its beginning to its end, so readers would have each piece a step or two late.
# What they, and the server's health checks, do can happen between the steps alone. This is the time for it: seconds at
# least, and a share of the step, since long steps leave more to be done.
HANDOVER_S = 0.0005
HANDOVER_SHARE = 0.03


class GenaiEngine(Engine):
    """One thread owns the pipeline and steps it while there are requests. What a step generates goes into a queue per
    request, from which the request's own thread takes all that has piled up as one step of its Generation.
    """

    def __init__(self, settings: Settings, tokenizer: Tokenizer):
        super().__init__(settings, tokenizer)
        scheduler = ov_genai.SchedulerConfig()
        scheduler.cache_size = settings.kv_cache_gb
        self._pipeline = ov_genai.ContinuousBatchingPipeline(
            settings.model_path, scheduler, settings.device, settings.ov_config
        )
        self._request_ids = itertools.count()
        self._wake = threading.Condition()
        self._arrived: list[_Request] = []
        self._closing = False
        self._thread = threading.Thread(target=self._step_while_needed, name="genai-engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _generate(self, prompts: list[list[int]], budgets: list[int], sampling: SamplingParams) -> Generator[Step]:
        request = _Request(prompts, [self._generation_config(budget, sampling) for budget in budgets])
        with self._wake:
            if self._closing:
                raise RuntimeError("the engine is closed")
            self._arrived.append(request)
            self._wake.notify()
        try:
            yield from request.steps()
        finally:
            request.abandoned = True

    def _generation_config(self, max_new_tokens: int, sampling: SamplingParams) -> ov_genai.GenerationConfig:
        config = ov_genai.GenerationConfig()
        config.max_new_tokens = max_new_tokens
        config.repetition_penalty = sampling.repetition_penalty
        config.ignore_eos = sampling.ignore_eos
        if not sampling.ignore_eos:
            config.stop_token_ids = set(self._stop_token_ids)
        if sampling.temperature > 0:
            config.do_sample = True
            config.temperature = sampling.temperature
            config.top_p = sampling.top_p
            config.top_k = sampling.top_k or self._tokenizer.get_vocab_size()
            config.rng_seed = int(np.random.SeedSequence(sampling.seed).generate_state(1)[0])
        return config

    def _step_while_needed(self) -> None:
        running: list[_Request] = []
        while True:
            with self._wake:
                while not (running or self._arrived or self._closing):
                    self._wake.wait()
                arrived, self._arrived = self._arrived, []
            try:
                if self._closing:
                    raise RuntimeError("the engine was closed")
                running += [request for request in arrived if request.start(self._pipeline, self._request_ids)]
                for request in running:
                    request.cancel_if_abandoned()
                started = time.monotonic()
                self._pipeline.step()
                step_s = time.monotonic() - started
                running = [request for request in running if request.collect()]
                time.sleep(max(HANDOVER_S, HANDOVER_SHARE * step_s))
            except Exception as error:
                for request in {*running, *arrived}:
                    request.fail(error)
                if self._closing:
                    if self._pipeline.has_non_finished_requests():
                        self._pipeline.step()  # drops what was cancelled; at its end the pipeline would complain of it
                    return
                running = []


class _Request:
    """One request's way through the pipeline: a handle per prompt, and the queue to the thread that reads it."""

    def __init__(self, prompts: list[list[int]], configs: list[ov_genai.GenerationConfig]):
        self.abandoned = False
        self._prompts = prompts
        self._configs = configs
        self._running: dict[int, ov_genai.GenerationHandle] = {}  # by the prompt's place in the request
        self._queue: SimpleQueue[tuple[int, list[int]] | _End] = SimpleQueue()

    def steps(self) -> Generator[Step]:
        """All that has come since the last step; waits where nothing has. The reader's side of the queue."""
        end = None
        while end is None:
            step = [[] for _ in self._prompts]
            items = [self._queue.get()]
            while not self._queue.empty():
                items.append(self._queue.get())
            for item in items:
                if isinstance(item, _End):
                    end = item
                else:
                    row, token_ids = item
                    step[row] += token_ids
            if any(step):
                yield step
        if end.error is not None:
            raise end.error

    def start(self, pipeline: ov_genai.ContinuousBatchingPipeline, request_ids: Iterator[int]) -> bool:
        """Hand the prompts to the pipeline; False where it refuses one, which is this request's error alone."""
        try:
            for row, (prompt, config) in enumerate(zip(self._prompts, self._configs, strict=True)):
                token_ids = ov.Tensor(np.array([prompt], dtype=np.int64))
                self._running[row] = pipeline.add_request(next(request_ids), token_ids, config)
        except Exception as error:
            self.fail(error)
            return False
        return True

    def cancel_if_abandoned(self) -> None:
        """Have the pipeline drop what nobody reads any more, at its next step."""
        if self.abandoned:
            for handle in self._running.values():
                handle.cancel()

    def collect(self) -> bool:
        """Put what the last step generated into the queue; False once all prompts have ended."""
        for row, handle in list(self._running.items()):
            status = handle.get_status()  # before reading: what comes after it is read next time
            while handle.can_read():
                for output in handle.read().values():
                    stop_token_ids = self._configs[row].stop_token_ids
                    token_ids = [token_id for token_id in output.generated_ids if token_id not in stop_token_ids]
                    self._queue.put((row, token_ids))
            if status == ov_genai.GenerationStatus.IGNORED:
                self.fail(RequestError("prompt and completion do not fit into the KV cache: raise KV_CACHE_GB"))
                return False
            if status != ov_genai.GenerationStatus.RUNNING:
                del self._running[row]
        if not self._running:
            self._queue.put(_End())
        return bool(self._running)

    def fail(self, error: Exception) -> None:
        """End the request with an error that its reader raises."""
        for handle in self._running.values():
            handle.cancel()
        self._queue.put(_End(error))


@dataclass(frozen=True, slots=True)
class _End:
    error: Exception | None = None
