"""Checkpoint -> model folder: an OpenVINO IR of a stateful model in FP32, with all that is needed to serve it."""

from importlib.metadata import version
from pathlib import Path

import torch
from optimum.exporters.openvino import export_from_model
from optimum.exporters.openvino.convert import export_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from text_generation import gguf_tokenizer
from text_generation.checkpoint import CheckpointError, first_line, parameter_count, read_config
from text_generation.machine import MachineError, available_memory, gigabytes, is_failed_write, require_disk
from text_generation.progress import growth

TASK = "text-generation-with-past"
PACKAGES = ("openvino", "openvino-tokenizers", "optimum-intel", "transformers", "torch")


def package_releases() -> dict[str, str]:
    """The releases of the packages that make an exported folder what it is."""
    return {package: version(package) for package in PACKAGES}


def export_checkpoint(checkpoint: Path, folder: Path, fallback_chat_template: str) -> None:
    """Export a checkpoint (a folder with safetensors, or a GGUF file) into an existing `folder`.

    The weights become FP32 while they are loaded and the IR shares their memory, so that the peak is little more than
    one copy of them. Raises CheckpointError if the checkpoint cannot be exported and MachineError if the machine is
    too small.
    """
    if checkpoint.is_dir():
        read_config(checkpoint)
    size = 4 * parameter_count(checkpoint)
    require_disk([(folder, size)])
    if available_memory() < size:
        raise MachineError(
            f"too little memory: the FP32 weights alone take {gigabytes(size)} and {gigabytes(available_memory())} are "
            "free; export on a larger machine and copy the folder"
        )
    try:
        tokenizer = _load_tokenizer(checkpoint)
        tokenizer.chat_template = tokenizer.chat_template or fallback_chat_template
        model = _load_model(checkpoint)
        with growth(folder / "openvino_model.bin", "Exporting", size):
            export_from_model(model, folder, task=TASK, stateful=True, preprocessors=[tokenizer])
        export_tokenizer(tokenizer, folder, task=TASK)
    except Exception as error:  # three libraries stand behind this, each with errors of its own
        if isinstance(error, MemoryError) or is_failed_write(error):
            raise
        raise CheckpointError(
            f"{checkpoint} cannot be exported: {type(error).__name__}: {first_line(error)}"
        ) from error


def _load_tokenizer(checkpoint: Path) -> PreTrainedTokenizerBase:
    if checkpoint.is_dir():
        return AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    return gguf_tokenizer.from_gguf(checkpoint)


def _load_model(checkpoint: Path):
    if checkpoint.is_dir():
        return AutoModelForCausalLM.from_pretrained(
            checkpoint, dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
    return AutoModelForCausalLM.from_pretrained(
        checkpoint.parent, gguf_file=checkpoint.name, dtype=torch.float32, local_files_only=True
    )
