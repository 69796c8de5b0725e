"""A long prompt beside running answers: how many tokens a step of GenAI's pipeline should process.

For each number of tokens, measures the time to the first token of the long prompt, alone and beside seven running
answers, and the longest pause that it causes in those.
"""

import argparse
import itertools
import statistics
import time
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai as ov_genai

from text_generation.serve.settings import DEFAULT_OV_CONFIG

OTHERS = 7
SHORT_PROMPT = 40
STEPS_AHEAD = 20  # of the others, so that all of them are generating when the long prompt arrives


class Pipeline:
    """A pipeline with this number of tokens per step, used with random prompts from the middle of the vocabulary."""

    def __init__(self, folder: Path, batched_tokens: int):
        scheduler = ov_genai.SchedulerConfig()
        scheduler.cache_size = 1
        scheduler.max_num_batched_tokens = batched_tokens
        self._pipeline = ov_genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", DEFAULT_OV_CONFIG)
        self._ids = itertools.count()
        self._random = np.random.default_rng(0)

    def measure(self, length: int, others: int) -> tuple[float, float]:
        """Return the seconds to the first token of a prompt of `length` tokens, and the longest pause of the others."""
        running = [self._add(SHORT_PROMPT) for _ in range(others)]
        for _ in range(STEPS_AHEAD if others else 0):
            self._step(running)
        started = last_step = time.perf_counter()
        longest_pause = 0.0
        long = self._add(length)
        while not long.can_read():
            self._step(running)
            now = time.perf_counter()
            longest_pause, last_step = max(longest_pause, now - last_step), now
        for handle in [long, *running]:
            handle.cancel()
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        return last_step - started, longest_pause

    def _add(self, length: int) -> ov_genai.GenerationHandle:
        config = ov_genai.GenerationConfig(max_new_tokens=1000, ignore_eos=True)
        prompt = ov.Tensor(self._random.integers(1000, 30_000, (1, length)))
        return self._pipeline.add_request(next(self._ids), prompt, config)

    def _step(self, running: list[ov_genai.GenerationHandle]) -> None:
        self._pipeline.step()
        for handle in running:
            while handle.can_read():
                handle.read()


def main() -> None:
    """Measure, interleaved, and print the medians in seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the model folder")
    parser.add_argument("--length", type=int, default=1900, help="tokens of the long prompt (%(default)s)")
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 128, 256, 512, 4096], help="numbers to compare")
    parser.add_argument("--repeats", type=int, default=3, help="(%(default)s)")
    arguments = parser.parse_args()
    pipelines = {tokens: Pipeline(arguments.folder, tokens) for tokens in arguments.tokens}
    measured: dict[int, list[tuple[float, float, float]]] = {tokens: [] for tokens in pipelines}
    for _ in range(arguments.repeats + 1):
        for tokens, pipeline in pipelines.items():
            alone, _ = pipeline.measure(arguments.length, 0)
            measured[tokens].append((alone, *pipeline.measure(arguments.length, OTHERS)))
    print("| tokens a step | first token alone | beside seven | longest pause of the seven |\n|---|---|---|---|")
    for tokens, (_warm_up, *repeats) in measured.items():
        alone, beside, pause = map(statistics.median, zip(*repeats, strict=True))
        print(f"| {tokens} | {alone:.2f} s | {beside:.2f} s | {pause:.2f} s |")


if __name__ == "__main__":
    main()
