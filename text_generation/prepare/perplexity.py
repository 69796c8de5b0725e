"""How well a model folder predicts a text: the price of a compression in one number."""

from pathlib import Path

import numpy as np
import openvino as ov

from text_generation import tokenizer_file
from text_generation.prepare.models import data_text

MAX_TOKENS = 1024
# The price of the weights alone: without the rounding of activations that the CPU plugin adds by default.
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0", "PERFORMANCE_HINT": "LATENCY"}


def perplexity(folder: Path) -> float:
    """The perplexity of the folder's model on the bundled English text, at most 1,024 tokens of it, on the CPU.

    That is exp of the mean negative log likelihood of each token after the first, given those before it. Raises
    ModelFolderError if the tokenizer is damaged or another model's.
    """
    token_ids = tokenizer_file.load(folder).encode(data_text("perplexity.txt")).ids[:MAX_TOKENS]
    model = ov.Core().compile_model(folder / "openvino_model.xml", "CPU", EXACT)
    logits = model(language_model_inputs(model, np.array([token_ids])))["logits"][0, :-1]
    return float(np.exp(negative_log_likelihood(logits, np.array(token_ids[1:])).mean()))


def memory_needed(folder: Path) -> int:
    """About how many bytes it takes to run the folder's model: its weights, their copy that the CPU plugin lays out in
    its own order, and a gigabyte for the rest."""
    return 2 * (folder / "openvino_model.bin").stat().st_size + 1_000_000_000


def negative_log_likelihood(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-log softmax(logits)[target] of each row: `logits` is (tokens, vocabulary), `targets` and result (tokens,)."""
    highest = logits.max(axis=-1)
    log_normalizer = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=-1))
    result: np.ndarray = log_normalizer - logits[np.arange(len(targets)), targets]
    return result


def language_model_inputs(model: ov.Model | ov.CompiledModel, token_ids: np.ndarray) -> dict[str, np.ndarray]:
    """Inputs of an exported language model for sequences from their first token on; `token_ids` is (batch, tokens)."""
    batch, length = token_ids.shape
    inputs = {
        "input_ids": token_ids,
        "attention_mask": np.ones_like(token_ids),
        "position_ids": np.tile(np.arange(length), (batch, 1)),
        "beam_idx": np.arange(batch, dtype=np.int32),
    }
    return {name: inputs[name] for name in (port.any_name for port in model.inputs)}
