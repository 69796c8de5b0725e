"""Checkpoints: weights, configuration and tokenizer as published, before they become a model folder."""

import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

BYTES_PER_DTYPE = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
_SINGLE_FILE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_FLOATS = {"F64", "F32", "F16", "BF16"}
# Keys in config.json that mark a quantized checkpoint: of most formats, of MLX, and of older compressed-tensors.
_QUANTIZATION_KEYS = ("quantization_config", "quantization", "compression_config")
QUANTIZATION_FILES = ("quantize_config.json", "quant_config.json")  # of older AutoGPTQ and AutoAWQ
# Names of tensors in quantized checkpoints only: GPTQ and AWQ, compressed-tensors and FP8, bitsandbytes.
_QUANTIZED_TENSOR = re.compile(
    r"\.(qweight|qzeros|weight_packed|weight_scale(_inv)?|SCB|absmax|quant_map|weight\.(absmax|quant_\w+)\b.*)$"
)
GENAI_FAULT = "OpenVINO GenAI runs incorrectly"


class CheckpointError(ValueError):
    """A checkpoint can't be downloaded or used; the message is one line that says what to do."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model on disk and its origin: a folder in Hugging Face's format, an OpenVINO model, or a GGUF file."""

    path: Path
    source: str

    @property
    def is_exported(self) -> bool:
        """Whether this is already an OpenVINO model."""
        return is_exported(self.path)


def is_exported(folder: Path) -> bool:
    """Whether a folder holds an OpenVINO model rather than a checkpoint."""
    return (folder / "openvino_model.xml").exists()


def from_folder(folder: Path) -> Checkpoint:
    """Return the checkpoint or OpenVINO model in a folder.

    Raises CheckpointError if the checkpoint's configuration or the headers of its weights show that it can't be used.
    This imports no slow libraries.
    """
    if folder.suffix == ".gguf" and folder.is_file():
        raise CheckpointError(
            f"{folder} is a GGUF file, which is not supported: give the folder of the checkpoint, in safetensors "
            "format, that it was made from"
        )
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder: give the folder that contains the checkpoint's files")
    if not is_exported(folder):
        read_config(folder)
        parameter_count(folder)
    return Checkpoint(folder, str(folder.resolve()))


def require_apart(source: Path, destination: Path) -> None:
    """Check that writing or replacing the folder `destination` does not affect the checkpoint folder `source`.

    Raises CheckpointError.
    """
    # Path.resolve fails on a loop of symlinks, which the error for a file in it names.
    read, written = (Path(os.path.realpath(path)) for path in (source, destination))
    if read.is_relative_to(written) or written.is_relative_to(read):
        raise CheckpointError(f"{source} is where {destination} would be written: move it, or use --output-dir")


def read_json(path: Path) -> dict:
    """Read the JSON object in a file of a checkpoint. Raises CheckpointError if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is missing: a checkpoint in Hugging Face's format, or an OpenVINO model, is needed"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        advice = "save it as UTF-8 without this mark" if "BOM" in str(error) else "download the checkpoint again"
        raise CheckpointError(f"{path} cannot be read ({error}): {advice}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object: download the checkpoint again")
    return content


def read_config(folder: Path) -> dict:
    """Read and check config.json and tokenizer_config.json; return the former.

    Raises CheckpointError if one is missing or damaged, if the folder holds only an adapter or quantized weights, or
    if its tokenizer requires code from the checkpoint.
    """
    if not (folder / "config.json").exists():
        require_more_than_adapter(folder)
    tokenizer_config, config = (read_json(folder / name) for name in ("tokenizer_config.json", "config.json"))
    _require_unquantized(folder, config)
    if "auto_map" in tokenizer_config:
        raise code_error(folder / "tokenizer_config.json")
    return config


def require_more_than_adapter(folder: Path) -> None:
    """Raise CheckpointError if a folder that lacks a file of a model holds an adapter."""
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(
            f"{folder} holds only an adapter (adapter_config.json): merge it into its base model and use the result"
        )


def code_error(path: Path) -> CheckpointError:
    """Return the error for a file of a checkpoint that requires code to be run."""
    return CheckpointError(
        f"{path} requires code from the checkpoint (auto_map), which is never run: "
        "use a checkpoint whose architecture is built into transformers"
    )


def not_servable(path: Path, reason: str, name: str) -> CheckpointError:
    """Return the error for a config.json of a model that can't be served; `name` is that of its architecture."""
    return CheckpointError(f"{path} describes a model that {reason} ({name}): it can't be served, use another one")


def _require_unquantized(folder: Path, config: dict) -> None:
    for key in _QUANTIZATION_KEYS:
        if found := config.get(key):
            method = found.get("quant_method") if isinstance(found, dict) else None
            raise _quantized_error(folder / "config.json", str(method or key))
    for name in QUANTIZATION_FILES:
        if (folder / name).exists():
            raise _quantized_error(folder / name, "GPTQ or AWQ")
    index = folder / _INDEX
    if index.exists() and not (folder / _SINGLE_FILE).exists():
        _require_unquantized_names(index, _weight_map(index))


def _require_unquantized_names(path: Path, names: Iterable[str]) -> None:
    for name in sorted(names):
        if _QUANTIZED_TENSOR.search(name):
            raise _quantized_error(path, name)


def _quantized_error(path: Path, sign: str) -> CheckpointError:
    return CheckpointError(
        f"{path} says that the weights are quantized ({sign}), which is not supported: use the model's 16-bit "
        "original, and compress_model.py for fewer bits"
    )


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that hold the checkpoint's weights.

    If there are model.safetensors and an index of several files, the former counts, as in transformers. Raises
    CheckpointError if there are none, or if one listed in the index is missing. Pickled weights do not count, because
    reading them can run code.
    """
    index, paths = folder / _INDEX, [folder / _SINGLE_FILE]
    if index.exists() and not paths[0].exists():
        paths = sorted({folder / name for name in _weight_map(index).values()})
    for path in paths:
        if not path.exists():
            require_more_than_adapter(folder)
            raise CheckpointError(
                f"{path} is missing: download the checkpoint again, with its weights in safetensors format "
                "(pickled .bin weights are not read, because they can run code)"
            )
    return paths


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if all(isinstance(name, str) for name in weight_map.values()):
            return weight_map
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        pass
    raise CheckpointError(f"{index} is damaged: download the checkpoint again")


def parameter_count(checkpoint: Path) -> int:
    """Count the parameters of a checkpoint, using only the headers of its weight files.

    Raises CheckpointError if a file is truncated, is not a safetensors file, or holds quantized weights.
    """
    if checkpoint.suffix == ".gguf":
        from gguf import GGUFReader  # imports numpy and tqdm, so only if it is needed

        return sum(int(tensor.n_elements) for tensor in GGUFReader(checkpoint).tensors)
    count = 0
    for path in weight_files(checkpoint):
        try:
            with safe_open(path, framework="np") as weights:
                names = list(weights.keys())
                types = {name: weights.get_slice(name).get_dtype() for name in names if name.endswith(".weight")}
                count += sum(math.prod(weights.get_slice(name).get_shape()) for name in names)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged or truncated ({error}): download the checkpoint again") from error
        _require_unquantized_names(path, names)
        for name, element_type in types.items():
            if element_type not in _FLOATS:
                raise _quantized_error(path, f"{name} is {element_type}")
    return count
