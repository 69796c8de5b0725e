"""Assembles a model folder from a checkpoint or an OpenVINO model: first the small files that describe it, then the
weights."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from text_generation import generation_config, model_folder
from text_generation.imports import quick_imports
from text_generation.model_folder import ModelFolderError
from text_generation.prepare import ready_made, tokenizer
from text_generation.prepare.checkpoint import Checkpoint, CheckpointError, is_exported, read_config, read_json
from text_generation.prepare.models import Model


def describe(source: Path, folder: Path, model: Model | None) -> list[str]:
    """Copy or create everything but the weights of a checkpoint, or of an OpenVINO model, in an existing `folder`.

    This rejects checkpoints that can't be served before their weights are downloaded or loaded; `source` need not have
    them yet. `model` is the listed model that the checkpoint belongs to, if any. Returns notes for the user, as
    sentences. Raises CheckpointError and ModelFolderError.
    """
    template = model.chat_template() if model else None
    if source.suffix == ".gguf":  # a single file with everything in it
        from text_generation.prepare import gguf_tokenizer

        gguf_tokenizer.from_gguf(source, template).save_pretrained(folder)
        return []
    with _naming(source, folder):
        if is_exported(source):
            ready_made.copy_all_but_weights(source, folder, template)
        else:
            read_config(source)
            with quick_imports():
                from text_generation.prepare import architecture

            architecture.require_servable(source).save_pretrained(folder)
            tokenizer.copy_tokenizer(source, folder, template)
            tokenizer.complete_tokenizer(folder)
        generation_config.recommended_sampling(source / "generation_config.json")
        for name in ("generation_config.json", "config.json"):
            generation_config.end_token_ids(source / name)
        return [*_template_notes(source), *tokenizer.check_chat(folder), *_context_notes(folder)]


def _template_notes(source: Path) -> list[str]:
    if tokenizer.has_chat_template(source):
        return []
    return ["The checkpoint has no chat template, so the one known for this model is used."]


def _context_notes(folder: Path) -> list[str]:
    switch = model_folder.longrope_switch(folder)
    if switch is None:
        return []
    return [
        f"Prompt and completion together can have {switch} tokens: beyond that, the model uses a second set of "
        "position factors (longrope), with which the engines answer incorrectly."
    ]


def fill(checkpoint: Checkpoint, folder: Path, model: Model | None) -> tuple[str, dict[str, str]]:
    """Add the weights and the files generated from the others, after `describe`.

    Returns the model's precision and the releases of the packages that made it. Raises CheckpointError,
    ModelFolderError and MachineError.
    """
    if checkpoint.is_exported:
        ready_made.copy_weights(checkpoint.path, folder)
        found = model_folder.read_ir(folder)
        return found.precision, {"openvino": found.release} if found.release else {}
    with quick_imports():
        from text_generation.prepare import export

    export.export_checkpoint(checkpoint.path, folder)
    if model and model.sampling and not (checkpoint.path / "generation_config.json").exists():
        path = folder / "generation_config.json"
        path.write_text(json.dumps(read_json(path) | dict(model.sampling), indent=2) + "\n", encoding="utf-8")
    with _naming(checkpoint.path, folder):
        tokenizer.write_openvino_tokenizer(folder)
    return "FP32", {package: version(package) for package in export.PACKAGES}


@contextmanager
def _naming(source: Path, folder: Path) -> Iterator[None]:
    """Let errors about `folder`, which the user has never seen, name the files of `source` that it is made from."""
    try:
        yield
    except (CheckpointError, ModelFolderError) as error:
        raise CheckpointError(str(error).replace(str(folder), str(source))) from error
