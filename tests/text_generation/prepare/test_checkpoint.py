from pathlib import Path

import pytest

from text_generation.prepare import checkpoint
from text_generation.prepare.checkpoint import CheckpointError

DEEP_JSON = '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"


@pytest.mark.parametrize("text", ["", "[]", "\xff", DEEP_JSON])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_damaged_configuration_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / name).write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=rf"/{name} .*: fetch the checkpoint again"):
        checkpoint.read_config(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 5}}', '{"weight_map": {"a": [1]}}', DEEP_JSON]
)
def test_damaged_index_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors\.index\.json is damaged: fetch the checkpoint again"
    ):
        checkpoint.weight_files(tmp_path)


def test_weights_are_listed_once_each(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "2", "b": "1", "c": "2"}}')
    (tmp_path / "1").touch()
    with pytest.raises(CheckpointError, match="/2 is missing"):
        checkpoint.weight_files(tmp_path)
    (tmp_path / "2").touch()
    assert checkpoint.weight_files(tmp_path) == [tmp_path / "1", tmp_path / "2"]
