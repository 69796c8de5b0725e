"""Measures one way to generate in a separate process, without a server.

`python -m benchmarks.in_process SUBJECT MODEL_FOLDER` loads the model, prints {"ready": true}, then answers each line
{"prompts": [[token ids, ...] per client], "new_tokens": N} on its input with one line {"answers": [Answer, ...]}.
"""

import copy
import json
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.workload import Answer
from text_generation.serve.sampling import SamplingParams
from text_generation.serve.settings import DEFAULT_OV_CONFIG, Settings


class ThreadPerClient(ABC):
    """A subject that answers a prompt in the calling thread."""

    def run(self, prompts: list[list[list[int]]], new_tokens: int) -> list[Answer]:
        """Run one thread per client, each of which asks its prompts in sequence."""
        answers: list[Answer] = []

        def client(own: list[list[int]]) -> None:
            answers.extend(self.ask(prompt, new_tokens) for prompt in own)

        threads = [threading.Thread(target=client, args=[own]) for own in prompts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers

    @abstractmethod
    def ask(self, prompt: list[int], new_tokens: int) -> Answer:
        """Generate exactly `new_tokens` tokens after a prompt given as token ids."""


class EngineSubject(ThreadPerClient):
    """One of our engines, called as in a servable: one thread per request reads text pieces."""

    def __init__(self, settings: Settings):
        from text_generation.serve import loading

        self._chat = loading.acquire(settings)

    def ask(self, prompt: list[int], new_tokens: int) -> Answer:
        answer = Answer(time.monotonic())
        with self._chat.generate([prompt], SamplingParams(max_tokens=new_tokens)) as generation:
            for pieces in generation:
                if any(pieces):
                    answer.arrivals.append(time.monotonic())
        answer.ended = time.monotonic()
        return answer


class GenerateSubject(ThreadPerClient):
    """The original demo's method: OVModelForCausalLM.generate with its sampling and one infer request per thread."""

    def __init__(self, settings: Settings):
        import openvino as ov
        from optimum.intel import OVModelForCausalLM

        self._model = OVModelForCausalLM.from_pretrained(
            settings.model_path, export=False, device=settings.device, ov_config=DEFAULT_OV_CONFIG
        )
        # OpenVINO's bindings look up numpy with the first array, and two threads that do so at once can deadlock.
        ov.Tensor(np.zeros(1))

    def ask(self, prompt: list[int], new_tokens: int) -> Answer:
        import torch

        model = copy.copy(self._model)
        model.request = self._model.request.get_compiled_model().create_infer_request()
        answer = Answer(time.monotonic())
        sampling = SamplingParams()
        model.generate(
            torch.tensor([prompt]),
            streamer=_Arrivals(answer),
            max_new_tokens=new_tokens,
            do_sample=True,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            repetition_penalty=sampling.repetition_penalty,
            # An id that is never generated, so that the check for the end runs as usual but finds nothing.
            eos_token_id=model.config.vocab_size,
            pad_token_id=0,
        )
        answer.ended = time.monotonic()
        return answer


class _Arrivals:
    """A streamer for generate() that records when tokens arrive. The first call passes the prompt."""

    def __init__(self, answer: Answer):
        self._answer = answer
        self._prompt_seen = False

    def put(self, _: object) -> None:
        if self._prompt_seen:
            self._answer.arrivals.append(time.monotonic())
        self._prompt_seen = True

    def end(self) -> None:
        """Part of the streamer's interface."""


class PipelineSubject:
    """GenAI's continuous batching pipeline alone, stepped in this thread until all requests end, without text."""

    def __init__(self, settings: Settings):
        import openvino_genai as ov_genai

        scheduler = ov_genai.SchedulerConfig()
        scheduler.cache_size = settings.kv_cache_gb
        self._pipeline = ov_genai.ContinuousBatchingPipeline(
            settings.model_path, scheduler, settings.device, settings.ov_config
        )
        self._next_id = 0

    def run(self, prompts: list[list[list[int]]], new_tokens: int) -> list[Answer]:
        """Run the first prompts of all clients at once, then the second ones, and so on."""
        answers = []
        for turn in zip(*prompts, strict=True):
            answers += self._run_at_once(turn, new_tokens)
        return answers

    def _run_at_once(self, prompts: tuple[list[int], ...], new_tokens: int) -> list[Answer]:
        import openvino as ov
        import openvino_genai as ov_genai

        sampling = SamplingParams()
        config = ov_genai.GenerationConfig()
        config.max_new_tokens = new_tokens
        config.ignore_eos = True
        config.do_sample = True
        config.temperature = sampling.temperature
        config.top_k = sampling.top_k
        config.top_p = sampling.top_p
        config.repetition_penalty = sampling.repetition_penalty
        running = []
        for prompt in prompts:
            answer = Answer(time.monotonic())
            handle = self._pipeline.add_request(self._next_id, ov.Tensor(np.array([prompt])), config)
            self._next_id += 1
            running.append((answer, handle))
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            now = time.monotonic()
            for answer, handle in running:
                if handle.can_read():
                    handle.read()
                    answer.arrivals.append(now)
                    answer.ended = now
        return [answer for answer, _ in running]


def main() -> None:
    name, folder = sys.argv[1:]
    # Only answers may go to the pipe; redirect the output of libraries to standard error.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    settings = Settings(
        model_path=Path(folder),
        engine="genai" if name == "genai" else "optimum",
        max_concurrent_requests=64,
        ignore_eos=True,
        prefix_caching=False,
    )
    subject = {
        "optimum": EngineSubject,
        "genai": EngineSubject,
        "generate": GenerateSubject,
        "pipeline": PipelineSubject,
    }[name](settings)
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        answers = subject.run(command["prompts"], command["new_tokens"])
        print(json.dumps({"answers": [asdict(answer) for answer in answers]}), file=replies, flush=True)


if __name__ == "__main__":
    main()
