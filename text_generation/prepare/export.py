"""Checkpoint -> model folder: the stateful model as an OpenVINO IR in FP32."""

import re
from pathlib import Path
from typing import Any

import torch
from optimum.exporters.openvino import export_from_model
from safetensors import safe_open
from tqdm import tqdm
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedModel

from text_generation.errors import first_line
from text_generation.prepare.checkpoint import CheckpointError, parameter_count, weight_files
from text_generation.prepare.machine import MachineError, available_memory, gigabytes, is_failed_write, require_disk
from text_generation.prepare.progress import growth

TASK = "text-generation-with-past"
# Buffers in older checkpoints that models now compute themselves.
_COMPUTED = re.compile(r"(\.rotary_emb\.(inv_freq|cos_cached|sin_cached)|\.masked_bias|position_ids)$")
PACKAGES = ("openvino", "openvino-tokenizers", "optimum-intel", "transformers", "torch")


def export_checkpoint(checkpoint: Path, folder: Path) -> None:
    """Export the model of a checkpoint (a folder with safetensors, or a GGUF file) into an existing `folder`.

    The weights are converted to FP32 while they are loaded, and the IR shares their memory, so the peak is little more
    than one copy of them. Raises CheckpointError if the checkpoint can't be exported, and MachineError if there is too
    little memory or disk space.
    """
    size = 4 * parameter_count(checkpoint)
    require_disk([(folder, size)])
    if available_memory() < size:
        raise MachineError(
            f"too little memory: the FP32 weights alone take {gigabytes(size)} and {gigabytes(available_memory())} are "
            "free; export on a larger machine and copy the folder"
        )
    published = _read_generation_config(checkpoint)
    try:
        model = _load_model(checkpoint)
        with growth(folder / "openvino_model.bin", "Exporting", size):
            # With None, Optimum would look for preprocessors on the Hub.
            export_from_model(model, folder, task=TASK, stateful=True, preprocessors=[])
    except Exception as error:  # three libraries are involved, each with errors of its own
        if isinstance(error, CheckpointError | MemoryError) or is_failed_write(error):
            raise
        raise CheckpointError(f"{checkpoint} cannot be exported: {first_line(error)}") from error
    if published is not None:
        (folder / "generation_config.json").write_bytes(published)


def _read_generation_config(checkpoint: Path) -> bytes | None:
    path = checkpoint / "generation_config.json"
    return path.read_bytes() if path.exists() else None


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
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    model: PreTrainedModel
    model, info = model_class.from_pretrained(
        None,
        config=config,
        state_dict=_load_fp32_weights(checkpoint),
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are named below
        trust_remote_code=False,
    )
    if mismatched := {name for name, *_ in info["mismatched_keys"]}:
        raise CheckpointError(
            f"{checkpoint} holds weights of other sizes than its config.json says: "
            f"{_abbreviated(mismatched)}; use a checkpoint whose files belong together"
        )
    if info["missing_keys"]:  # these would be random numbers
        raise CheckpointError(f"{checkpoint} lacks the weights {_abbreviated(info['missing_keys'])}: download it again")
    unexpected = {name for name in info["unexpected_keys"] if not _COMPUTED.search(name)}
    if unexpected:
        adapter = any("lora_" in name for name in unexpected)
        raise CheckpointError(
            f"{checkpoint} holds weights that its architecture, as described by its config.json, has no place for: "
            f"{_abbreviated(unexpected)}; "
            + ("merge the adapter into the model first" if adapter else "use a checkpoint whose config.json fits it")
        )
    return model


def _abbreviated(weights: set[str]) -> str:
    """List the first few names and how many more there are."""
    first, more = sorted(weights)[:3], len(weights) - 3
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")


def _load_fp32_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Load all weights in FP32. Raises CheckpointError if one has values that are no finite numbers in FP32.

    from_pretrained would keep whole files mapped until the last weight is converted, which adds half to the peak for
    16-bit weights. Opening the file once per weight releases its memory after each weight.
    """
    weights = {}
    with tqdm(desc="Loading", total=4 * parameter_count(checkpoint), unit="B", unit_scale=True, disable=None) as bar:
        for file in weight_files(checkpoint):
            with safe_open(file, framework="pt") as opened:
                names = opened.keys()
            for name in names:
                with safe_open(file, framework="pt") as opened:
                    weights[name] = opened.get_tensor(name).to(torch.float32)
                if not (_COMPUTED.search(name) or _is_finite(weights[name])):
                    raise CheckpointError(
                        f"{file} holds values that are NaN or infinite in FP32, in {name}: download the checkpoint "
                        "again, or use another one"
                    )
                bar.update(weights[name].nbytes)
    return weights


def _is_finite(weights: torch.Tensor) -> bool:
    # NaN carries over to both, so no tensor of the weights' size is needed.
    return weights.numel() == 0 or bool(torch.isfinite(torch.stack(torch.aminmax(weights))).all())
