"""Checkpoint -> model folder: an OpenVINO IR of a stateful model in FP32, with all that is needed to serve it."""

import shutil
from importlib.metadata import version
from pathlib import Path

import torch
from optimum.exporters.openvino import export_from_model
from optimum.exporters.openvino.convert import export_tokenizer
from safetensors import safe_open
from tqdm import tqdm
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from text_generation.errors import first_line
from text_generation.prepare import gguf_tokenizer
from text_generation.prepare.checkpoint import CheckpointError, parameter_count, read_config, weight_files
from text_generation.prepare.machine import MachineError, available_memory, gigabytes, is_failed_write, require_disk
from text_generation.prepare.progress import growth

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
    if checkpoint.suffix != ".gguf":
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
        if (checkpoint / "generation_config.json").exists():
            shutil.copyfile(checkpoint / "generation_config.json", folder / "generation_config.json")
        export_tokenizer(tokenizer, folder, task=TASK)
        if not (folder / "openvino_detokenizer.bin").exists():  # Optimum leaves it at a line in a log
            raise ValueError("its tokenizer has no counterpart in OpenVINO")
    except Exception as error:  # three libraries stand behind this, each with errors of its own
        if isinstance(error, MemoryError) or is_failed_write(error):
            raise
        raise CheckpointError(f"{checkpoint} cannot be exported: {first_line(error)}") from error


def _load_tokenizer(checkpoint: Path) -> PreTrainedTokenizerBase:
    if checkpoint.suffix == ".gguf":
        return gguf_tokenizer.from_gguf(checkpoint)
    return AutoTokenizer.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False)


def _load_model(checkpoint: Path) -> PreTrainedModel:
    if checkpoint.suffix == ".gguf":
        return AutoModelForCausalLM.from_pretrained(
            checkpoint.parent,
            gguf_file=checkpoint.name,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
        )
    config = AutoConfig.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False)
    model, loaded = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(
        None,
        config=config,
        state_dict=_load_fp32_weights(checkpoint),
        dtype=torch.float32,
        output_loading_info=True,
        trust_remote_code=False,
    )
    if loaded["missing_keys"]:  # these would be random numbers
        raise ValueError(f"it lacks the weights {', '.join(sorted(loaded['missing_keys']))}")
    return model


def _load_fp32_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All weights in FP32.

    from_pretrained would keep the whole files mapped until the last weight is converted, and with 16-bit weights they
    add half to the peak. A file opened once per weight is in memory no longer than that weight.
    """
    weights = {}
    with tqdm(desc="Loading", total=4 * parameter_count(checkpoint), unit="B", unit_scale=True, disable=None) as bar:
        for file in weight_files(checkpoint):
            with safe_open(file, framework="pt") as opened:
                names = opened.keys()
            for name in names:
                with safe_open(file, framework="pt") as opened:
                    weights[name] = opened.get_tensor(name).to(torch.float32)
                bar.update(weights[name].nbytes)
    return weights
