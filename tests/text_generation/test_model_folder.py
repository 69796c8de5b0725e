import json
import os
from pathlib import Path

import pytest

from tests.support.model_folders import XML, write_model
from tests.support.text import edited
from text_generation import model_folder
from text_generation.model_folder import ModelFolderError


def test_info_is_what_was_written(folder: Path) -> None:
    info = model_folder.check(folder)
    assert (info.model, info.precision, info.source, info.packages) == ("m", "FP32", "here", {"openvino": "1"})
    assert info.files == {name: (folder / name).stat().st_size for name in model_folder.NEEDED_FILES}


def test_subfolders_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    write_model(tmp_path)
    assert model_folder.check(tmp_path).files.keys() == set(model_folder.NEEDED_FILES)


def test_folder_of_another_exporter_has_no_info(folder: Path) -> None:
    (folder / model_folder.MODEL_INFO).unlink()
    assert model_folder.check(folder) is None


@pytest.mark.parametrize("with_info", [True, False])
@pytest.mark.parametrize("name", model_folder.NEEDED_FILES)
def test_missing_and_empty_files_are_named(folder: Path, name: str, with_info: bool) -> None:
    if not with_info:
        (folder / model_folder.MODEL_INFO).unlink()
    os.truncate(folder / name, 0)
    with pytest.raises(ModelFolderError, match=f"{name} has 0 bytes instead of"):
        model_folder.check(folder)
    (folder / name).unlink()
    with pytest.raises(ModelFolderError, match=f"{name} is missing: copy or recreate"):
        model_folder.check(folder)


@pytest.mark.parametrize("with_info", [True, False])
def test_truncated_weights_are_found(folder: Path, with_info: bool) -> None:
    if not with_info:
        (folder / model_folder.MODEL_INFO).unlink()
    os.truncate(folder / "openvino_model.bin", 999)
    with pytest.raises(ModelFolderError, match=r"openvino_model.bin (has 999 bytes instead of 1,000|is truncated)"):
        model_folder.check(folder)


def test_stateless_model_is_named(folder: Path) -> None:
    (folder / model_folder.MODEL_INFO).unlink()
    (folder / "openvino_model.xml").write_bytes(edited(XML, b"ReadValue", b"Parameter"))
    with pytest.raises(ModelFolderError, match=r"openvino_model\.xml is a stateless model.*can't be served"):
        model_folder.check(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"model": "m"}', '{"files": 3}', "\0"])
def test_damaged_info_is_named(folder: Path, text: str) -> None:
    (folder / model_folder.MODEL_INFO).write_text(text)
    with pytest.raises(ModelFolderError, match=r"model_info.json is damaged"):
        model_folder.check(folder)


def test_wrong_types_in_the_info_are_damage(folder: Path) -> None:
    path = folder / model_folder.MODEL_INFO
    path.write_text(json.dumps(json.loads(path.read_text()) | {"files": ["openvino_model.bin"]}))
    with pytest.raises(ModelFolderError, match=r"model_info.json is damaged"):
        model_folder.read(folder)


LONG = {"max_position_embeddings": 2048, "original_max_position_embeddings": 1024}


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": 2048, "n_ctx": 1}, 2048),
        ({"n_positions": 1024}, 1024),
        ({"max_seq_len": 4096}, 4096),
        ({}, 512),
        ({"max_position_embeddings": None}, 512),
        ({"max_position_embeddings": 4096, "original_max_position_embeddings": 2048}, 4096),
        (LONG | {"rope_scaling": {"type": "longrope"}}, 1024),
        (LONG | {"rope_scaling": {"rope_type": "su"}}, 1024),
        (LONG | {"rope_scaling": {"type": "yarn"}}, 2048),
        ({"n_ctx": 64, "rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 32}}, 32),
        ({"n_ctx": 64, "rope_parameters": {"rope_type": "longrope"}}, 64),
        ({"n_ctx": 64, "rope_scaling": {"type": []}}, 64),
    ],
)
def test_context_length_goes_by_many_names(tmp_path: Path, config: dict, length: int) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    assert model_folder.context_length(tmp_path) == length


@pytest.mark.parametrize("stated", ["{}", '{"model_max_length": 1e30}'])
def test_model_without_a_context_length(tmp_path: Path, stated: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text(stated)
    with pytest.raises(ModelFolderError, match="does not give the model's context length"):
        model_folder.context_length(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{}", '{"vocab_size": null}', '{"vocab_size": "576"}', '{"vocab_size": 0}'])
def test_damaged_configuration_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelFolderError, match=r"config\.json is damaged"):
        model_folder.config_size(tmp_path, "vocab_size")


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="is not a folder"):
        model_folder.check(tmp_path / "nothing")
