"""Creates a model with TinyLlama's exact shape and random weights: as fast as the real one, without a download."""

import argparse
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from text_generation import model_folder
from text_generation.prepare import compression
from text_generation.prepare.models import MODELS
from text_generation.prepare.staging import staged

ROOT = Path(__file__).parent.parent
NAME = "tiny-llama-1b-chat"
# https://huggingface.co/TinyLlama/TinyLlama-1.1B-Chat-v1.0/blob/main/config.json: 1.1e9 parameters.
SHAPE = LlamaConfig(
    vocab_size=32000,
    hidden_size=2048,
    intermediate_size=5632,
    num_hidden_layers=22,
    num_attention_heads=32,
    num_key_value_heads=4,
    max_position_embeddings=2048,
    rms_norm_eps=1e-5,
    bos_token_id=1,
    eos_token_id=2,
)


def make(folder: Path, tokenizer_folder: Path, shape: LlamaConfig = SHAPE) -> None:
    """Write a random model in INT4, with TinyLlama's recipe, as a model folder; its parent holds intermediate files.

    The tokenizer is the one in `tokenizer_folder`, reduced to the shape's vocabulary, since TinyLlama's own would have
    to be downloaded. An existing folder is kept.
    """
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with staged(folder) as new, TemporaryDirectory(dir=folder.parent) as scratch:
        checkpoint = Path(scratch) / "checkpoint"
        _save_checkpoint(checkpoint, shape, tokenizer_folder)
        # In a separate process, so that the export's memory is released before the compression.
        export = [sys.executable, ROOT / "download_model.py", "--model", NAME, "--source", checkpoint]
        subprocess.run([*export, "--output-dir", scratch], check=True, stdout=sys.stderr)
        compression.compress(Path(scratch) / NAME, new, "INT4", MODELS[NAME].int4)
        packages = {name: version(name) for name in ("openvino", "nncf")}
        model_folder.write_info(new, model=NAME, precision="INT4", source="random weights", packages=packages)


def _save_checkpoint(folder: Path, shape: LlamaConfig, tokenizer_folder: Path) -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    LlamaForCausalLM(shape).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    chat = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    specials = {"bos_token": chat.bos_token, "eos_token": chat.eos_token, "pad_token": chat.eos_token}
    tokenizer = _cut(chat.backend_tokenizer, shape.vocab_size)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=chat.chat_template, **specials).save_pretrained(
        folder
    )


def _cut(tokenizer: Tokenizer, size: int) -> Tokenizer:
    """Remove the ids from `size` on from a byte-level BPE tokenizer, with their merges; any text stays encodable."""
    fields = json.loads(tokenizer.to_str())
    model = fields["model"]
    model["vocab"] = {token: token_id for token, token_id in model["vocab"].items() if token_id < size}
    model["merges"] = [merge for merge in model["merges"] if "".join(merge) in model["vocab"]]
    return Tokenizer.from_str(json.dumps(fields))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the model folder to create")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a model folder with the tokenizer to reduce")
    arguments = parser.parse_args()
    make(arguments.folder, arguments.tokenizer)
