import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as torch_save_file

from text_generation.prepare import checkpoint
from text_generation.prepare.checkpoint import CheckpointError

DEEP_JSON = '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"


@pytest.mark.parametrize("text", ["", "[]", "\xff", DEEP_JSON])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_damaged_configuration_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / name).write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=rf"/{name} .*: download the checkpoint again"):
        checkpoint.read_config(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 5}}', '{"weight_map": {"a": [1]}}', DEEP_JSON]
)
def test_damaged_index_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors\.index\.json is damaged: download the checkpoint again"
    ):
        checkpoint.weight_files(tmp_path)


def test_weights_are_listed_once_each(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "2", "b": "1", "c": "2"}}')
    (tmp_path / "1").touch()
    with pytest.raises(CheckpointError, match="/2 is missing"):
        checkpoint.weight_files(tmp_path)
    (tmp_path / "2").touch()
    assert checkpoint.weight_files(tmp_path) == [tmp_path / "1", tmp_path / "2"]


@pytest.mark.parametrize("shard", ["model-1.safetensors", "gone"])
def test_single_file_comes_before_an_index(tmp_path: Path, shard: str) -> None:
    """As in transformers."""
    for name in ("model.safetensors", "model-1.safetensors"):
        (tmp_path / name).touch()
    index = {"weight_map": {"model.layers.0.mlp.up_proj.qweight": shard}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert checkpoint.weight_files(tmp_path) == [tmp_path / "model.safetensors"]
    checkpoint.read_config(write_configs(tmp_path))  # the index says that the shards are quantized


def write_configs(folder: Path, **config) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "compressed-tensors", "fp8", "mxfp4"])
def test_quantized_checkpoints_are_told_by_their_config(tmp_path: Path, method: str) -> None:
    write_configs(tmp_path, quantization_config={"quant_method": method})
    with pytest.raises(CheckpointError, match=rf"quantized \({method}\).*16-bit original"):
        checkpoint.read_config(tmp_path)


@pytest.mark.parametrize("key", ["quantization", "compression_config"])
def test_other_ways_to_say_quantized(tmp_path: Path, key: str) -> None:
    write_configs(tmp_path, **{key: {"group_size": 64, "bits": 4}})
    with pytest.raises(CheckpointError, match=rf"quantized \({key}\).*16-bit original"):
        checkpoint.read_config(tmp_path)


@pytest.mark.parametrize("name", ["quantize_config.json", "quant_config.json"])
def test_quantized_checkpoints_are_told_by_a_file(tmp_path: Path, name: str) -> None:
    (write_configs(tmp_path) / name).write_text("{}")
    with pytest.raises(CheckpointError, match=rf"{name} says that the weights are quantized.*16-bit original"):
        checkpoint.read_config(tmp_path)


def test_unquantized_ones_pass(tmp_path: Path) -> None:
    assert checkpoint.read_config(write_configs(tmp_path, quantization_config=None)) == {"quantization_config": None}


QUANTIZED_NAMES = [
    "model.layers.0.self_attn.q_proj.qweight",
    "model.layers.0.self_attn.q_proj.qzeros",
    "model.layers.0.mlp.up_proj.weight_scale",
    "model.layers.0.mlp.up_proj.weight_scale_inv",
    "model.layers.0.mlp.up_proj.weight_packed",
    "model.layers.0.mlp.up_proj.weight.absmax",
    "model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4",
    "model.layers.0.mlp.up_proj.SCB",
]


@pytest.mark.parametrize("name", QUANTIZED_NAMES)
def test_quantized_checkpoints_are_told_by_their_weights(tmp_path: Path, name: str) -> None:
    """By the index before the download, by the file itself afterwards."""
    write_configs(tmp_path)
    save_file({name: np.zeros(2, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"model\.safetensors says .*quantized \({name}\).*16-bit original"):
        checkpoint.parameter_count(tmp_path)
    index = {"weight_map": {"model.norm.weight": "model-1.safetensors", name: "model-2.safetensors"}}
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=rf"index\.json says .*quantized \({name}\)"):
        checkpoint.read_config(tmp_path)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_weights_of_8_bits_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    torch_save_file({"layer.weight": torch.zeros(2, 2).to(dtype)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"quantized \(layer\.weight is \w+\)"):
        checkpoint.parameter_count(tmp_path)


def test_buffers_of_integers_pass(tmp_path: Path) -> None:
    weights = {"layer.weight": np.zeros((2, 2), np.float16), "position_ids": np.zeros(3, np.int64)}
    save_file(weights | {"attn.bias": np.ones(4, bool)}, tmp_path / "model.safetensors")
    assert checkpoint.parameter_count(tmp_path) == 11


def test_adapter_alone(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"holds only an adapter .* merge it into its base model"):
        checkpoint.read_config(tmp_path)


def test_adapter_with_the_configuration_of_its_base_model(tmp_path: Path) -> None:
    (write_configs(tmp_path) / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"holds only an adapter .* merge it into its base model"):
        checkpoint.from_folder(tmp_path)
    save_file({"norm.weight": np.zeros(2, np.float32)}, tmp_path / "model.safetensors")
    assert checkpoint.from_folder(tmp_path).path == tmp_path


def test_byte_order_mark(tmp_path: Path) -> None:
    (write_configs(tmp_path) / "config.json").write_text("{}", encoding="utf-8-sig")
    with pytest.raises(CheckpointError, match=r"config\.json .*BOM.*: save it as UTF-8 without this mark"):
        checkpoint.read_config(tmp_path)


def test_gguf_file_as_the_source(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"model\.gguf is a GGUF file, .*: give the folder of the checkpoint"):
        checkpoint.from_folder(tmp_path / "model.gguf")


def test_code_for_the_tokenizer(tmp_path: Path) -> None:
    (write_configs(tmp_path) / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["own.Own", null]}}')
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json requires code .*auto_map"):
        checkpoint.read_config(tmp_path)
