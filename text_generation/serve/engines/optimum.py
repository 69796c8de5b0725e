"""Runs Hugging Face Optimum's OpenVINO model as the original demo does, with a decode loop in place of generate()."""

import ctypes
import math
import time
from collections.abc import Generator

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from optimum.intel import OVModelForCausalLM

from text_generation.serve.engines.base import Engine, NewTokens, Step, Work
from text_generation.serve.engines.device import compile_options
from text_generation.serve.engines.sampler import Sampler, chosen_logprobs
from text_generation.serve.settings import Settings

TRIM_INTERVAL_S = 1.0
# Minimum interval between steps, as for GenAI: each wakes a server thread and a client on cores that the model needs.
STEP_INTERVAL_S = 0.02


class OptimumEngine(Engine):
    """Runs each request as one left-padded batch on its own infer request; all requests share the compiled model.

    A request runs in the thread that iterates over it, so an abandoned request costs nothing.
    """

    def __init__(self, settings: Settings):
        self._settings = settings
        self._model: OVModelForCausalLM | None = None
        self._malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own
        self._last_trim = 0.0

    def wait_ready(self) -> None:
        torch.set_num_threads(1)  # torch only samples tokens here; more threads would compete with OpenVINO's
        # On a GPU, Optimum would cache compiled kernels in the model folder, which may be read-only.
        device, ov_config = compile_options(self._settings.device, {"CACHE_DIR": ""} | self._settings.ov_config)
        model = OVModelForCausalLM.from_pretrained(
            self._settings.model_path, export=False, compile=False, device=device, ov_config=ov_config
        )
        keep_last_logits(model.model)
        model.compile()
        self._model = model

    @property
    def _loaded(self) -> OVModelForCausalLM:
        assert self._model is not None, "call wait_ready first, and close last"
        return self._model

    @property
    def cache_bytes_per_token(self) -> int:
        """Counted at 24 bits per value, a bound measured for 8-bit values with their overhead and the cache's spare
        capacity (SECURITY.md)."""
        return 3 * sum(cached_values(state.get_info().data_shape) for state in self._loaded.model.get_variables())

    def close(self) -> None:
        self._model = None

    def generate(self, work: Work) -> Generator[Step]:
        try:
            yield from self._decode(work)
        finally:
            self._give_back_memory()

    def _give_back_memory(self) -> None:
        """Return freed memory to the system. malloc keeps it, and ever more of it while prompts of mixed lengths are
        served. This takes a few milliseconds, so its rate is limited.
        """
        now = time.monotonic()
        if self._malloc_trim is not None and now - self._last_trim >= TRIM_INTERVAL_S:
            self._last_trim = now
            self._malloc_trim(0)

    def _decode(self, work: Work) -> Generator[Step]:
        batch = _Batch(self._loaded.request.get_compiled_model(), work.prompts, max(work.budgets))
        sample = Sampler(work.sampling)
        running = list(range(len(work.prompts)))  # the prompt of each row of the batch
        step, last_step = [NewTokens() for _ in work.prompts], -math.inf
        for length in range(1, max(work.budgets) + 1):
            logits = batch.logits()
            token_ids = sample(batch.history, logits, length - 1)
            logprobs = chosen_logprobs(logits, token_ids) if work.sampling.logprobs else None
            kept = []
            for row, (prompt, token_id) in enumerate(zip(running, token_ids.tolist(), strict=True)):
                step[prompt].ids.append(token_id)
                if logprobs is not None:
                    step[prompt].logprobs.append(logprobs[row])
                if token_id not in work.stop_token_ids and length < work.budgets[prompt]:
                    kept.append(row)
            now = time.monotonic()
            if work.eager or not kept or now - last_step >= STEP_INTERVAL_S:
                yield step
                step, last_step = [NewTokens() for _ in work.prompts], now
            if not kept:
                return
            batch.append(token_ids.numpy(), kept)
            running = [running[row] for row in kept]


class _Batch:
    """The rows of one request: their tokens so far, and their own infer request and hence key-value cache.

    Optimum's `forward` passes the same inputs to the model, but it recomputes them all and copies the logits for each
    token, which takes 4% of the time on a small model.
    """

    def __init__(self, model: ov.CompiledModel, prompts: list[list[int]], budget: int):
        self._request = model.create_infer_request()
        self._takes_positions = any("position_ids" in port.names for port in model.inputs)
        self._token_ids, self._attention_mask = left_pad(prompts, budget)
        self._length = self._token_ids.shape[1] - budget
        self._input_ids = self._token_ids[:, : self._length]
        self._positions = np.maximum(self._attention_mask[:, : self._length].cumsum(axis=1) - 1, 0)
        self._rows = np.arange(len(prompts), dtype=np.int32)

    @property
    def history(self) -> torch.Tensor:
        """All token ids so far, int64 [n, length]."""
        return torch.from_numpy(self._token_ids[:, : self._length])

    def logits(self) -> torch.Tensor:
        """Run the model on the tokens it has not seen; returns float [n, vocabulary], valid until the next call."""
        inputs = {
            "input_ids": np.ascontiguousarray(self._input_ids),
            "attention_mask": np.ascontiguousarray(self._attention_mask[:, : self._length]),
            "beam_idx": self._rows,
        }
        if self._takes_positions:
            inputs["position_ids"] = self._positions
        self._request.start_async(inputs, share_inputs=True)
        self._request.wait()
        return torch.from_numpy(self._request.get_tensor("logits").data)[:, -1]

    def append(self, token_ids: np.ndarray, kept: list[int]) -> None:
        """Append each row's token from `token_ids`, int64 [n], and keep only the rows `kept`.

        The model reorders the cache by beam_idx before using it, so listing only the kept rows drops the finished ones
        from the batch: they cost nothing from here on.
        """
        self._rows = np.array(kept, dtype=np.int32)
        if len(kept) < len(token_ids):
            token_ids, self._token_ids = token_ids[kept], self._token_ids[kept]
            self._attention_mask, self._positions = self._attention_mask[kept], self._positions[kept]
        self._token_ids[:, self._length] = token_ids
        self._length += 1
        self._input_ids = token_ids[:, None]
        self._positions = self._positions[:, -1:] + 1


def cached_values(shape: ov.PartialShape) -> int:
    """Return how many values one token adds to a state of this shape, [batch, heads, length, head size], of which batch
    and length are dynamic; 0 for a state of fixed size, which does not grow."""
    if not any(dimension.is_dynamic for dimension in shape[1:]):
        return 0
    return math.prod(dimension.get_length() for dimension in shape if dimension.is_static)


def left_pad(prompts: list[list[int]], budget: int) -> tuple[np.ndarray, np.ndarray]:
    """Return token ids and attention mask, both int64 [n, longest prompt + budget]; the last `budget` ids are zeros.

    The padding repeats the prompt's own first token: attention masks it out, and the repetition penalty, which looks
    at all ids, sees none that are not in the prompt.
    """
    longest = max(map(len, prompts))
    token_ids = np.zeros((len(prompts), longest + budget), dtype=np.int64)
    mask = np.ones_like(token_ids)
    for row, prompt in enumerate(prompts):
        start = longest - len(prompt)
        token_ids[row, :start] = prompt[0]
        token_ids[row, start:longest] = prompt
        mask[row, :start] = 0
    return token_ids, mask


def keep_last_logits(model: ov.Model) -> None:
    """Make the model compute logits for the last position only, [n, 1, vocabulary], which is all generation needs.

    The exported model computes them for every position of a prompt, which takes most of the memory and a good part of
    the time of a long prefill. A model with an unknown structure is left unchanged.
    """
    projection = model.output("logits").get_node().input_value(0).get_node()
    while projection.get_type_name() in ("Convert", "Multiply", "Divide", "Tanh"):  # precision and logit soft-capping
        projection = projection.input_value(0).get_node()
    if projection.get_type_name() != "MatMul" or projection.input_value(0).get_partial_shape().rank != ov.Dimension(3):
        return
    hidden_states = projection.input_value(0)
    last = ops.slice(hidden_states, [-1], [np.iinfo(np.int64).max], [1], [1])
    projection.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()
