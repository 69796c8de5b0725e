"""Checkpoint -> model folder: an OpenVINO IR of a stateful model in FP32, with all that is needed to serve it."""

from importlib.metadata import version
from pathlib import Path

import torch
from optimum.exporters.openvino import export_from_model
from optimum.exporters.openvino.convert import export_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from text_generation import gguf_tokenizer

TASK = "text-generation-with-past"
PACKAGES = ("openvino", "openvino-tokenizers", "optimum-intel", "transformers", "torch")


def package_releases() -> dict[str, str]:
    """The releases of the packages whose work a model folder is."""
    return {package: version(package) for package in PACKAGES}


def load_tokenizer(checkpoint: Path, fallback_chat_template: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a checkpoint (a folder, or a GGUF file), with a chat template in any case."""
    if checkpoint.suffix == ".gguf":
        tokenizer = gguf_tokenizer.from_gguf(checkpoint)
    else:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    tokenizer.chat_template = tokenizer.chat_template or fallback_chat_template
    return tokenizer


def export_checkpoint(checkpoint: Path, folder: Path, fallback_chat_template: str) -> None:
    """Export a checkpoint (a folder with safetensors, or a GGUF file) into an existing, empty `folder`.

    The weights are converted to FP32 while they are loaded and the IR shares their memory, so the peak is little more
    than one copy of them.
    """
    tokenizer = load_tokenizer(checkpoint, fallback_chat_template)
    if checkpoint.suffix == ".gguf":
        location = {"pretrained_model_name_or_path": checkpoint.parent, "gguf_file": checkpoint.name}
    else:
        location = {"pretrained_model_name_or_path": checkpoint, "use_safetensors": True, "trust_remote_code": False}
    model = AutoModelForCausalLM.from_pretrained(**location, dtype=torch.float32)
    export_from_model(model, folder, task=TASK, stateful=True, preprocessors=[tokenizer])
    export_tokenizer(tokenizer, folder, task=TASK)
