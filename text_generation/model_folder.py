"""The model folder, which the two model commands write and the servables read.

A folder is either complete or absent: it is written under a hidden name next to its final one, flushed to disk and
renamed. `model_info.json` records the size of every file, so a folder that has since lost data (through an interrupted
copy or a full disk) is detected in milliseconds rather than by a crash while the weights load. Folders made by other
tools, such as `optimum-cli export openvino`, have no such record; they are checked by their IR alone.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from text_generation import ir
from text_generation.ir import Ir

MODEL_INFO = "model_info.json"
NEEDED_FILES = (
    "openvino_model.xml",
    "openvino_model.bin",
    "openvino_tokenizer.xml",
    "openvino_tokenizer.bin",
    "openvino_detokenizer.xml",
    "openvino_detokenizer.bin",
    "tokenizer.json",
    "tokenizer_config.json",
    "config.json",
    "generation_config.json",
)
# Other names that some architectures use for a size in config.json, as in transformers' attribute_map.
SIZE_NAMES = {
    "hidden_size": ("n_embd", "d_model", "emb_dim"),
    "max_position_embeddings": ("n_positions", "max_seq_len", "context_length", "n_ctx", "seq_length"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads", "attention_heads"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
}
# Rope types with one set of position factors for short sequences and another for long ones.
_LONGROPE = ("longrope", "su")
# transformers sets model_max_length to 10^30 if a tokenizer has none.
NO_LENGTH = 10**9


class ModelFolderError(ValueError):
    """A model folder can't be used or written; the message is one line that says what to do."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Origin of a model folder: model, precision, the checkpoint's source, the releases of the packages that made it,
    and the size of each file in bytes."""

    model: str
    precision: str
    source: str
    packages: dict[str, str]
    files: dict[str, int]


def read(folder: Path) -> ModelInfo | None:
    """Read the folder's model_info.json; None if it does not exist, as in a folder made by optimum-cli.

    Raises ModelFolderError if the file can't be read or is damaged.
    """
    path = folder / MODEL_INFO
    try:
        return TypeAdapter(ModelInfo).validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelFolderError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    except ValidationError as error:
        raise ModelFolderError(f"{path} is damaged: copy or recreate the folder") from error


def check(folder: Path) -> ModelInfo | None:
    """Check, without loading it, that the folder holds a complete model that can generate; return the result of `read`.

    Raises ModelFolderError, which names the file, if one is missing, truncated or unreadable, or if the model's IR
    keeps no key-value cache.
    """
    if not folder.is_dir():
        raise ModelFolderError(f"{folder} is not a folder: give a folder made by download_model.py")
    info = read(folder)
    sizes = dict.fromkeys(NEEDED_FILES) | (info.files if info else {})
    for name, expected in sizes.items():
        path = folder / name
        try:
            with path.open("rb"):
                size = path.stat().st_size
        except FileNotFoundError:
            raise ModelFolderError(f"{path} is missing: copy or recreate the folder") from None
        except OSError as error:
            raise ModelFolderError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
        if size != expected and (expected is not None or size == 0):
            wanted = f"{expected:,}" if expected is not None else "some"
            raise ModelFolderError(f"{path} has {size:,} bytes instead of {wanted}: copy or recreate the folder")
    model = read_ir(folder)
    weights = folder / "openvino_model.bin"
    if weights.stat().st_size < model.weights_bytes:
        raise ModelFolderError(f"{weights} is truncated: copy or recreate the folder")
    return info


def read_ir(folder: Path) -> Ir:
    """Read the properties of the folder's IR.

    Raises ModelFolderError if it is damaged, or if it is stateless and so keeps no key-value cache.
    """
    path = folder / "openvino_model.xml"
    try:
        model = ir.parse(path.read_bytes())
    except OSError as error:
        raise ModelFolderError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    if model is None:
        raise ModelFolderError(f"{path} is damaged: copy or recreate the folder")
    if not model.stateful:
        raise ModelFolderError(
            f"{path} is a stateless model, which keeps no key-value cache and can't be served: export it again with "
            "download_model.py, or with optimum-cli's --task text-generation-with-past and no --disable-stateful"
        )
    return model


def config_size(folder: Path, name: str) -> int:
    """Return a size from the folder's config.json, given its usual name, such as `vocab_size`.

    Raises ModelFolderError if config.json does not have it.
    """
    size = _config_size(folder, name)
    if size is None:
        raise ModelFolderError(f"{folder / 'config.json'} is damaged (no {name} in it): copy or recreate the folder")
    return size


def context_length(folder: Path) -> int:
    """Return how many tokens prompt and completion may have together, from config.json or, for a model without a
    limited number of positions, from tokenizer_config.json.

    A model with two sets of position factors (longrope) may have as many as its first set is for: the engines choose
    one for a whole step, not for each sequence, and do not recompute the cache when a sequence needs the other.

    Raises ModelFolderError if neither file has the number.
    """
    size = longrope_switch(folder) or _config_size(folder, "max_position_embeddings")
    if size is None:
        length = read_json(folder / "tokenizer_config.json").get("model_max_length")
        if isinstance(length, bool) or not isinstance(length, int | float) or not 0 < length < NO_LENGTH:
            raise ModelFolderError(
                f"{folder} does not give the model's context length: add max_position_embeddings to config.json"
            )
        size = int(length)
    return size


def genai_differs(config: dict[str, Any]) -> bool:
    """Whether OpenVINO GenAI generates different tokens than transformers and Optimum with this config.json.

    Release 2026.4.1 does with the attention biases (ALiBi) of MPT and the first Falcon models, and with the local
    attention of GPT-Neo.
    """
    model_type = config.get("model_type")
    return model_type in ("mpt", "gpt_neo") or (model_type == "falcon" and bool(config.get("alibi")))


def longrope_switch(folder: Path) -> int | None:
    """Return the number of tokens above which a model with longrope uses its second set of position factors; None if
    the model does not have two. Raises ModelFolderError if config.json is damaged.
    """
    config = read_json(folder / "config.json")
    rope = config.get("rope_parameters") or config.get("rope_scaling")  # the older name
    if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type")) not in _LONGROPE:
        return None
    switches = (part.get("original_max_position_embeddings") for part in (config, rope))
    return next((size for size in switches if type(size) is int and size > 0), None)


def _config_size(folder: Path, name: str) -> int | None:
    config = read_json(folder / "config.json")
    sizes = (config.get(known) for known in (name, *SIZE_NAMES.get(name, ())))
    return next((size for size in sizes if type(size) is int and size > 0), None)


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file of a model folder; empty if there is no such file.

    Raises ModelFolderError if it can't be read or holds anything but an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFolderError(
            f"{path} can't be read ({' '.join(str(error).split())}): copy or recreate the folder"
        ) from error
    if not isinstance(content, dict):
        raise ModelFolderError(f"{path} is damaged (no JSON object): copy or recreate the folder")
    return content


def is_complete(folder: Path) -> bool:
    """Whether the folder passes `check`."""
    try:
        check(folder)
    except ModelFolderError:
        return False
    return True


def write_info(folder: Path, *, model: str, precision: str, source: str, packages: dict[str, str]) -> None:
    """Write model_info.json into a folder that has all its other files."""
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    info = ModelInfo(model, precision, source, packages, sizes)
    (folder / MODEL_INFO).write_text(json.dumps(asdict(info), indent=2) + "\n", encoding="utf-8")
