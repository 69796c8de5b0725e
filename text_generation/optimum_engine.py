"""Hugging Face Optimum's OpenVINO model in a decode loop of our own: what the demo describes, without generate()."""

import copy
from collections.abc import Generator

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from optimum.intel import OVModelForCausalLM
from tokenizers import Tokenizer

from text_generation.engine import Engine, Step
from text_generation.sampling import Sampler, SamplingParams
from text_generation.settings import Settings


class OptimumEngine(Engine):
    """Each request is one left-padded batch on an infer request of its own; requests share the compiled model.

    A request runs in the thread that iterates over it, so an abandoned one costs nothing.
    """

    def __init__(self, settings: Settings, tokenizer: Tokenizer):
        super().__init__(settings, tokenizer)
        torch.set_num_threads(1)  # torch only draws tokens here; more threads would fight OpenVINO's for the cores
        self._model = OVModelForCausalLM.from_pretrained(
            settings.model_path, export=False, compile=False, device=settings.device, ov_config=settings.ov_config
        )
        keep_last_logits(self._model.model)
        self._model.compile()

    def close(self) -> None:
        self._model = None

    def _generate(self, prompts: list[list[int]], budgets: list[int], sampling: SamplingParams) -> Generator[Step]:
        model = self._new_request()
        sample = Sampler(sampling)
        stop_token_ids = frozenset() if sampling.ignore_eos else self._stop_token_ids
        history, attention_mask = left_pad(prompts)
        input_ids, cache = history, None
        running = list(range(len(prompts)))  # the prompt of each row of the batch
        for length in range(1, max(budgets) + 1):
            logits, cache = _forward(model, input_ids, attention_mask, cache)
            token_ids = sample(history, logits)
            step = [[] for _ in prompts]
            kept = []
            for row, (prompt, token_id) in enumerate(zip(running, token_ids.tolist(), strict=True)):
                if token_id not in stop_token_ids:
                    step[prompt] = [token_id]
                    if length < budgets[prompt]:
                        kept.append(row)
            if any(step):
                yield step
            if not kept:
                return
            # The cache is gathered by next_beam_idx before it is used, so naming only the rows that go on drops the
            # finished ones out of the batch: they cost nothing from here on.
            model.next_beam_idx = np.array(kept)
            running = [running[row] for row in kept]
            input_ids = token_ids[kept, None]
            history = torch.cat([history[kept], input_ids], dim=1)
            attention_mask = torch.cat([attention_mask[kept], torch.ones_like(input_ids)], dim=1)

    def _new_request(self) -> OVModelForCausalLM:
        """The model with an infer request, and so a cache, of its own: one model object is not safe for two threads."""
        model = copy.copy(self._model)
        model.request = self._model.request.get_compiled_model().create_infer_request()
        return model


@torch.inference_mode()
def _forward(
    model: OVModelForCausalLM, input_ids: torch.Tensor, attention_mask: torch.Tensor, cache: tuple | None
) -> tuple[torch.Tensor, tuple]:
    """Logits of the last position, float [n, vocabulary], and the marker by which Optimum knows its cache."""
    output = model(input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache)
    return output.logits[:, -1], output.past_key_values


def left_pad(prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both int64 [n, longest prompt].

    The padding repeats the prompt's own first token: it is masked out of attention, and the repetition penalty, which
    looks at all ids, sees none that the prompt does not have.
    """
    longest = max(map(len, prompts))
    padding = [longest - len(prompt) for prompt in prompts]
    token_ids = [prompt[:1] * missing + prompt for prompt, missing in zip(prompts, padding, strict=True)]
    mask = [[0] * missing + [1] * (longest - missing) for missing in padding]
    return torch.tensor(token_ids), torch.tensor(mask)


def keep_last_logits(model: ov.Model) -> None:
    """Make the model compute logits for the last position only, [n, 1, vocabulary], all that generation looks at.

    The exported model has them for every position of a prompt, which costs most of the memory and a good part of the
    time of a long prefill. A model of a shape not known here is left as it is.
    """
    projection = model.output("logits").get_node().input_value(0).get_node()
    while projection.get_type_name() in ("Convert", "Multiply", "Divide", "Tanh"):  # precision and logit soft-capping
        projection = projection.input_value(0).get_node()
    if projection.get_type_name() != "MatMul" or projection.input_value(0).get_partial_shape().rank != ov.Dimension(3):
        return
    hidden = projection.input_value(0)
    last = ops.slice(hidden, [-1], [np.iinfo(np.int64).max], [1], [1])
    projection.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()
