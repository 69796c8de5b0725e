"""Decides from a checkpoint's config.json alone whether its architecture can be exported and served."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from packaging.version import Version
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, PretrainedConfig

from text_generation.errors import first_line
from text_generation.model_folder import context_length, genai_differs
from text_generation.prepare.checkpoint import GENAI_FAULT, CheckpointError, code_error, not_servable, read_json

# Optimum 2.1.0 claims to export these only with transformers up to 5.0, but does so correctly with the pinned release:
# tests/test_architectures.py.
_GEMMA = ("Gemma2OpenVINOConfig", "Gemma3TextOpenVINOConfig")


def require_servable(checkpoint: Path) -> PretrainedConfig:
    """Check that the checkpoint's architecture can be exported and served, and return its configuration.

    Raises CheckpointError for architectures unknown to transformers or Optimum, for encoders and classifiers, and for
    models that keep state other than a key-value cache.
    """
    path = checkpoint / "config.json"
    content = read_json(path)
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            checkpoint, local_files_only=True, trust_remote_code=False
        )
        model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    except Exception as error:  # depends on the file's content
        if "auto_map" in content:
            raise code_error(path) from error
        raise CheckpointError(f"{path} describes a model unknown to transformers: {first_line(error)}") from error
    auto_map = content.get("auto_map", {})
    classes = {"AutoConfig": type(config).__name__, "AutoModelForCausalLM": model_class and model_class.__name__}
    if any(auto in auto_map and str(auto_map[auto]).rpartition(".")[2] != name for auto, name in classes.items()):
        raise code_error(path)
    architectures = content.get("architectures")
    if reason := _why_not_servable(config, model_class, architectures):
        name = ", ".join(architectures or [config.model_type])
        raise not_servable(path, reason, name)
    context_length(checkpoint)
    return config


def _why_not_servable(config: PretrainedConfig, model_class: Any, architectures: list[str] | None) -> str | None:
    from optimum.exporters.openvino.utils import SSM_MODELS

    if config.is_encoder_decoder:
        return "has an encoder and a decoder"
    if model_class is None or not _generates(architectures, model_class.__name__):
        return "does not generate text"
    if config.model_type in SSM_MODELS:
        return "keeps state other than a key-value cache"
    if genai_differs(config.to_dict()):
        return GENAI_FAULT
    if not is_exportable(config.model_type):
        return "can't be exported by Optimum"
    return None


def _generates(architectures: list[str] | None, model_class: str) -> bool:
    """Whether one of config.json's architectures generates text, which for many only the name shows."""
    return not architectures or any(
        name == model_class or name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures
    )


def is_exportable(model_type: str) -> bool:
    """Whether Optimum, with the installed transformers, exports the architecture with a key-value cache."""
    from optimum.exporters.openvino import model_configs
    from optimum.exporters.tasks import TasksManager

    for name in _GEMMA:
        getattr(model_configs, name).MAX_TRANSFORMERS_VERSION = version("transformers")
    try:
        constructor = TasksManager.get_exporter_config_constructor(
            "openvino", model_type=model_type, task="text-generation-with-past", library_name="transformers"
        )
    except (KeyError, ValueError):
        return False
    limits = constructor.func
    oldest = getattr(limits, "MIN_TRANSFORMERS_VERSION", None)
    newest = getattr(limits, "MAX_TRANSFORMERS_VERSION", None)
    running = Version(version("transformers"))
    return (oldest is None or Version(str(oldest)) <= running) and (newest is None or running <= Version(str(newest)))
