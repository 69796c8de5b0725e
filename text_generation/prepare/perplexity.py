"""Perplexity: how well a model predicts a text, to show what a compression costs."""

from pathlib import Path

import numpy as np
import openvino as ov

from text_generation import tokenizer_file
from text_generation.model_folder import context_length
from text_generation.prepare.models import data_text

MAX_TOKENS = 1024
# Measure the weights alone, without the rounding of activations that the CPU plugin applies by default.
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0", "PERFORMANCE_HINT": "LATENCY"}


def perplexity(folder: Path) -> float:
    """Compute, on the CPU, the perplexity of the folder's model on the bundled English text, of which at most 1,024
    tokens are used, and no more than its context has.

    This is exp of the mean negative log likelihood of each token after the first, given the tokens before it. Raises
    ModelFolderError if the tokenizer is damaged or belongs to another model, or if the context length is unknown.
    """
    length = min(MAX_TOKENS, context_length(folder))
    token_ids = tokenizer_file.load(folder).encode(data_text("perplexity.txt")).ids[:length]
    model = ov.Core().compile_model(folder / "openvino_model.xml", "CPU", EXACT)
    logits = model(language_model_inputs(model, np.array([token_ids])))["logits"][0, :-1]
    mean = float(negative_log_likelihood(logits, np.array(token_ids[1:])).mean())
    return float(np.exp(mean))  # in double precision: a poor model's would be infinite in single


def memory_needed(folder: Path) -> int:
    """Estimate the bytes needed to run the folder's model: the weights, the CPU plugin's copy of them in its own
    layout, and a gigabyte for the rest."""
    return 2 * (folder / "openvino_model.bin").stat().st_size + 1_000_000_000


def negative_log_likelihood(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Compute -log softmax(logits)[target]; `logits` is (tokens, vocabulary), `targets` and result (tokens,)."""
    highest = logits.max(axis=-1)
    log_normalizer = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=-1))
    result: np.ndarray = log_normalizer - logits[np.arange(len(targets)), targets]
    return result


def language_model_inputs(model: ov.Model | ov.CompiledModel, token_ids: np.ndarray) -> dict[str, np.ndarray]:
    """Return an exported language model's inputs for complete sequences; `token_ids` is (batch, tokens)."""
    batch, length = token_ids.shape
    inputs = {
        "input_ids": token_ids,
        "attention_mask": np.ones_like(token_ids),
        "position_ids": np.tile(np.arange(length), (batch, 1)),
        "beam_idx": np.arange(batch, dtype=np.int32),
    }
    return {name: inputs[name] for name in (port.any_name for port in model.inputs)}
