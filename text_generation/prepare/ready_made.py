"""Already exported OpenVINO model -> model folder, without torch and without the FP32 weights."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from text_generation import ir, model_folder
from text_generation.model_folder import ModelFolderError
from text_generation.prepare import tokenizer
from text_generation.prepare.checkpoint import GENAI_FAULT, CheckpointError, not_servable, read_json
from text_generation.prepare.machine import require_disk
from text_generation.prepare.progress import growth

MODEL = "openvino_model.xml"
WEIGHTS = "openvino_model.bin"
TOKENIZER_MODELS = tuple(f"openvino_{kind}.{part}" for kind in ("tokenizer", "detokenizer") for part in ("xml", "bin"))
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def copy_all_but_weights(source: Path, folder: Path, fallback_template: str | None) -> None:
    """Copy everything but the weights from `source` to the model folder.

    What an exporter may have omitted (generation_config.json with the end tokens, tokens of tokenizer.json, and the
    tokenizer as an OpenVINO model) is generated from the other files. Raises CheckpointError, or ModelFolderError if
    the model keeps no key-value cache, if a file is damaged, or if the context length is unknown.
    """
    model_folder.read_ir(source)
    config = read_json(source / "config.json")
    if model_folder.genai_differs(config):
        raise not_servable(source / "config.json", GENAI_FAULT, config["model_type"])
    tokenizer.copy_tokenizer(source, folder, fallback_template)
    for name in (MODEL, "config.json", "generation_config.json", *TOKENIZER_MODELS):
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)
    if not (folder / "generation_config.json").exists():
        token_ids = {name: config[name] for name in TOKEN_IDS if config.get(name) is not None}
        (folder / "generation_config.json").write_text(json.dumps(token_ids, indent=2) + "\n", encoding="utf-8")
    model_folder.context_length(folder)
    for kind in ("tokenizer", "detokenizer"):
        _check_tokenizer_model(folder / f"openvino_{kind}.xml")
    if tokenizer.lacks_tokens(folder) or not all((folder / name).exists() for name in TOKENIZER_MODELS):
        _convert_tokenizer(folder)


def _check_tokenizer_model(path: Path) -> None:
    """Raise ModelFolderError if the OpenVINO model of a tokenizer, if there is one, is damaged."""
    data = path.with_suffix(".bin")
    if not (path.exists() and data.exists()):
        return
    size = ir.data_bytes(path.read_bytes())
    if size is None or data.stat().st_size < size:
        damaged = path if size is None else data
        raise ModelFolderError(
            f"{damaged} is damaged: download it again, or give a copy of the folder (--source) without "
            "openvino_tokenizer and openvino_detokenizer, and they will be created"
        )


def copy_weights(source: Path, folder: Path) -> None:
    """Copy the weights, after `copy_all_but_weights`.

    Raises CheckpointError if they are missing, and MachineError if there is too little disk space.
    """
    if not (source / WEIGHTS).exists():
        raise CheckpointError(f"{source / WEIGHTS} is missing: download the OpenVINO model again")
    size = (source / WEIGHTS).stat().st_size
    require_disk([(folder, size)])
    with growth(folder / WEIGHTS, "Copying", size):
        shutil.copyfile(source / WEIGHTS, folder / WEIGHTS)


def _convert_tokenizer(folder: Path) -> None:
    """Complete the tokenizer and convert it to an OpenVINO model, in a process that does not import torch."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "text_generation.prepare.commands.convert_tokenizer", str(folder)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise CheckpointError(done.stderr.strip().rpartition("\n")[2].removeprefix("error: "))
