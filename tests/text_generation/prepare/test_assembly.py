"""What of a checkpoint is copied or refused before its weights are needed."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import SIZES, TOKENIZER_CONFIG, byte_level_tokenizer
from text_generation import model_folder, tokenizer_file
from text_generation.prepare import assembly
from text_generation.prepare.checkpoint import CheckpointError
from text_generation.prepare.models import MODELS


def write(folder: Path, config: dict[str, Any] = {}, tokenizer_config: dict[str, Any] = {}) -> Path:  # noqa: B006
    """Write a checkpoint of a Llama without its weights, with these changes."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"} | SIZES | config))
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG | tokenizer_config))
    byte_level_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def described(source: Path) -> Path:
    folder = source.with_name("new")
    folder.mkdir()
    assembly.describe(source, folder, None)
    return folder


def test_tokens_that_tokenizer_json_lacks_are_added(tmp_path: Path) -> None:
    folder = described(write(tmp_path / "checkpoint", tokenizer_config={"extra_special_tokens": ["<|im_start|>"]}))
    assert len(tokenizer_file.load(folder).encode("<|im_start|>")) == 1


def test_errors_name_the_checkpoint_rather_than_the_folder_that_is_written(tmp_path: Path) -> None:
    source = write(tmp_path / "checkpoint", tokenizer_config={"extra_special_tokens": 5})
    with pytest.raises(CheckpointError, match=f"the tokenizer's files in {source} are damaged"):
        described(source)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", r"generation_config\.json can't be read"),
        ("[]", r"generation_config\.json is damaged"),
        ('{"temperature": "hot"}', r"generation_config\.json can't be used: temperature is 'hot'"),
        ('{"top_p": 5}', r"generation_config\.json can't be used: top_p is 5"),
        ('{"eos_token_id": -1}', r"generation_config\.json can't be used: eos_token_id is -1: must be"),
        ('{"eos_token_id": [2, "3"]}', r"generation_config\.json can't be used: eos_token_id is \[2, '3'\]: must be"),
    ],
)
def test_generation_config_that_the_server_would_refuse(tmp_path: Path, text: str, reason: str) -> None:
    source = write(tmp_path / "checkpoint")
    (source / "generation_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=f"{source}/{reason}"):
        described(source)


def test_end_token_in_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"checkpoint/config\.json can't be used: eos_token_id is \[-1\]"):
        described(write(tmp_path / "checkpoint", {"eos_token_id": [-1]}))


def test_longrope_limits_the_context_and_a_note_says_so(tmp_path: Path) -> None:
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    rope = {"rope_scaling": {"type": "longrope"} | factors, "original_max_position_embeddings": 128}
    source, folder = write(tmp_path / "checkpoint", {"model_type": "phi3"} | rope), tmp_path / "new"
    folder.mkdir()
    [note] = assembly.describe(source, folder, None)
    assert "can have 128 tokens" in note
    assert model_folder.context_length(folder) == 128


def test_a_chat_template_that_is_not_the_checkpoint_s_own_is_noted(tmp_path: Path) -> None:
    source, folder = write(tmp_path / "checkpoint", tokenizer_config={"chat_template": None}), tmp_path / "new"
    folder.mkdir()
    assert assembly.describe(source, folder, MODELS["notus-7b-v1"]) == [
        "The checkpoint has no chat template, so the one known for this model is used."
    ]
    assert (folder / "chat_template.jinja").read_text() == MODELS["notus-7b-v1"].chat_template()
    (source / "chat_template.jinja").write_text(TOKENIZER_CONFIG["chat_template"])
    assert assembly.describe(source, folder, MODELS["notus-7b-v1"]) == []
