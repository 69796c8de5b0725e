"""Checkpoints: weights, configuration and tokenizer as their makers publish them, before they become a model folder."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

BYTES_PER_DTYPE = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


class CheckpointError(ValueError):
    """A checkpoint that cannot be fetched or used; the message is one line that says what to do."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on disk: a folder in Hugging Face's format or one GGUF file, and where it came from."""

    path: Path
    source: str


def require_apart(source: Path, destination: Path) -> None:
    """Check that to write, or replace, the folder `destination` leaves the checkpoint folder `source` as it is.

    Raises CheckpointError.
    """
    read, written = source.resolve(), destination.resolve()
    if read.is_relative_to(written) or written.is_relative_to(read):
        raise CheckpointError(f"{source} is where {destination} would be written: move it, or use --output-dir")


def from_folder(folder: Path) -> Checkpoint:
    """A checkpoint folder that is on disk already, checked as far as that takes no time.

    Raises CheckpointError.
    """
    read_config(folder)
    parameter_count(folder)
    return Checkpoint(folder, str(folder.resolve()))


def read_config(folder: Path) -> dict:
    """Read and vet config.json and tokenizer_config.json; return the former.

    Raises CheckpointError if one is missing or damaged, or if it asks for code from the checkpoint to be run.
    """
    for name in ("tokenizer_config.json", "config.json"):
        path = folder / name
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(f"{path} is missing: a checkpoint in Hugging Face's format is needed") from None
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}): fetch the checkpoint again") from error
        if not isinstance(config, dict):
            raise CheckpointError(f"{path} holds no JSON object: fetch the checkpoint again")
        if "auto_map" in config:
            raise CheckpointError(
                f"{path} asks to run code that comes with the checkpoint (auto_map), which is never done: "
                "use a checkpoint whose architecture transformers has built in"
            )
    return config


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the checkpoint's weights.

    Raises CheckpointError if there are none or one that the index lists is missing. Pickled weights do not count, since
    to read them can mean to run code.
    """
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            paths = sorted({folder / name for name in weight_map.values()})
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise CheckpointError(f"{index} is damaged: fetch the checkpoint again") from error
    else:
        paths = [folder / "model.safetensors"]
    for path in paths:
        if not path.exists():
            raise CheckpointError(
                f"{path} is missing: fetch the checkpoint again, with its weights in safetensors format "
                "(pickled .bin weights are not read, because they can run code)"
            )
    return paths


def parameter_count(checkpoint: Path) -> int:
    """The number of parameters in a checkpoint, from the headers of its weight files alone.

    Raises CheckpointError if a file is truncated or is not what its name says.
    """
    if checkpoint.suffix == ".gguf":
        from gguf import GGUFReader  # brings numpy and tqdm: only where there is work

        return sum(int(tensor.n_elements) for tensor in GGUFReader(checkpoint).tensors)
    count = 0
    for path in weight_files(checkpoint):
        try:
            with safe_open(path, framework="np") as weights:
                count += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged or truncated ({error}): fetch the checkpoint again") from error
    return count
