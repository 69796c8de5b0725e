"""Which config.json describes a model that can be served, and the errors for others."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from text_generation.prepare import architecture
from text_generation.prepare.checkpoint import CheckpointError


def write_config(folder: Path, model_type: str, **stated: Any) -> Path:
    """Write a configuration with a class's defaults and these changes; None omits a key."""
    if model_type in CONFIG_MAPPING:
        CONFIG_MAPPING[model_type]().save_pretrained(folder)
        stated = json.loads((folder / "config.json").read_text()) | stated
    stated = {"model_type": model_type} | {name: value for name, value in stated.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(stated))
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    "model_type",
    ["llama", "qwen2", "qwen3", "mistral", "phi3", "gemma2", "gemma3_text", "granite", "smollm3", "gpt2", "gpt_neox"],
)
def test_servable(tmp_path: Path, model_type: str) -> None:
    assert architecture.require_servable(write_config(tmp_path, model_type)).model_type == model_type


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("t5", "has an encoder and a decoder"),
        ("bart", "has an encoder and a decoder"),
        ("clip", "does not generate text"),
        ("mamba", "keeps state other than a key-value cache"),
        ("qwen3_next", "keeps state other than a key-value cache"),
        ("gemma3", "can't be exported by Optimum"),
        ("mpt", "OpenVINO GenAI runs incorrectly"),
        ("gpt_neo", "OpenVINO GenAI runs incorrectly"),
        ("deepseek_v3", "can't be exported by Optimum"),
        ("rwkv", "can't be exported by Optimum"),
        ("invented", "describes a model unknown to transformers"),
    ],
)
def test_what_cannot_be_served(tmp_path: Path, model_type: str, reason: str) -> None:
    with pytest.raises(CheckpointError, match=rf"config\.json describes .*{reason}|{reason}"):
        architecture.require_servable(write_config(tmp_path, model_type))


def test_falcon_is_served_without_alibi(tmp_path: Path) -> None:
    architecture.require_servable(write_config(tmp_path, "falcon"))
    with pytest.raises(CheckpointError, match="OpenVINO GenAI runs incorrectly"):
        architecture.require_servable(write_config(tmp_path, "falcon", alibi=True))


@pytest.mark.parametrize("name", ["MistralModel", "Qwen2ForSequenceClassification", "LlamaForTokenClassification"])
def test_encoders_and_classifiers(tmp_path: Path, name: str) -> None:
    write_config(tmp_path, "llama", architectures=[name])
    with pytest.raises(CheckpointError, match=rf"does not generate text \({name}\)"):
        architecture.require_servable(tmp_path)


def test_model_without_a_context_length(tmp_path: Path) -> None:
    write_config(tmp_path, "bloom")
    with pytest.raises(ValueError, match="does not give the model's context length"):
        architecture.require_servable(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 2048}')
    architecture.require_servable(tmp_path)


BUILT_IN = {"AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}


@pytest.mark.parametrize("code", [BUILT_IN, BUILT_IN | {"AutoTokenizer": "Xenova/gpt-4o"}])
def test_code_that_transformers_has_built_in_is_not_needed(tmp_path: Path, code: dict[str, str]) -> None:
    architecture.require_servable(write_config(tmp_path, "phi3", auto_map=code))


@pytest.mark.parametrize(
    ("model_type", "code"),
    [
        ("phi3", {"AutoModelForCausalLM": "modeling_phi3.AnotherForCausalLM"}),
        ("phi3", {"AutoConfig": "configuration_phi3.AnotherConfig"}),
        ("phi3", {"AutoModelForCausalLM": None}),
        ("invented", {"AutoConfig": "configuration_invented.Config"}),
    ],
)
def test_code_that_would_be_needed_is_refused(tmp_path: Path, model_type: str, code: dict[str, str]) -> None:
    write_config(tmp_path, model_type, auto_map=code)
    with pytest.raises(CheckpointError, match=r"config\.json requires code from the checkpoint \(auto_map\)"):
        architecture.require_servable(tmp_path)


def test_sizes_go_by_all_names_that_transformers_knows() -> None:
    """The names with which config.json is read, compared with the attribute maps of exportable architectures."""
    from optimum.exporters.openvino.utils import SSM_MODELS
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from text_generation.model_folder import SIZE_NAMES

    for model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        if (
            not architecture.is_exportable(model_type)
            or model_type in SSM_MODELS
            or CONFIG_MAPPING[model_type]().is_encoder_decoder
        ):
            continue
        for name, own in CONFIG_MAPPING[model_type].attribute_map.items():
            if name in SIZE_NAMES:
                assert own in SIZE_NAMES[name], model_type
