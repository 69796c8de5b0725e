import subprocess
import sys

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from text_generation.prepare.models import MODELS, HubRepository, Int4Recipe, is_folder_name, model_for
from text_generation.prepare.recipes import int4_recipe

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye"},
]
ZEPHYR = "<|system|>\nBe brief.</s>\n<|user|>\nHi</s>\n<|assistant|>\nHello.</s>\n<|user|>\nBye</s>\n<|assistant|>\n"
# From the authors' descriptions: the model cards, and https://huggingface.co/blog/llama2#how-to-prompt-llama-2
RENDERED = {
    "tiny-llama-1b-chat": ZEPHYR,
    "notus-7b-v1": ZEPHYR,
    "llama-2-chat-7b": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello. </s><s>[INST] Bye [/INST]",
    "smollm2-135m-instruct": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
}


@pytest.mark.parametrize("name", RENDERED)
def test_fallback_chat_template(name: str) -> None:
    template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(
        MODELS[name].chat_template()
    )
    rendered = template.render(messages=CHAT, add_generation_prompt=True, bos_token="<s>", eos_token="</s>")
    assert rendered == RENDERED[name]


def test_only_these_have_a_fallback() -> None:
    assert {name for name, model in MODELS.items() if model.chat_template() is not None} == RENDERED.keys()


def test_a_repository_stands_for_itself_or_for_a_listed_model() -> None:
    assert model_for("TinyLlama/TinyLlama-1.1B-Chat-v1.0") is MODELS["tiny-llama-1b-chat"]
    assert model_for("mistralai/Mistral-Nemo-Instruct-2407").source == HubRepository(
        "mistralai/Mistral-Nemo-Instruct-2407"
    )
    assert model_for("qwen3-8b") is MODELS["qwen3-8b"]


@pytest.mark.parametrize(
    "name",
    [
        "gpt-5",
        "",
        "a/b/c",
        "/b",
        "a/",
        "../b",
        "a/..",
        "a/b c",
        "a/.b",
        "a/b/",
        "a/b..c",
        "https://x/a/b",
        "a\\b",
        "a/é",
    ],
)
def test_what_is_no_repository(name: str) -> None:
    assert model_for(name) is None


@pytest.mark.parametrize("name", ["..", ".", ".x", "a/b", "/", "", "x\n", "\0", "a\x85", "-x", "\udcff"])
def test_what_is_no_name_of_a_folder(name: str) -> None:
    assert not is_folder_name(name)


@pytest.mark.parametrize("name", ["x", "a..b", "a b", "modèle", "a+b", "模型", "x.", "[a]*", "a\\b"])
def test_what_is_a_name_of_a_folder(name: str) -> None:
    assert is_folder_name(name)


class TestInt4Recipe:
    def test_the_seeds_keep_theirs(self) -> None:
        assert int4_recipe("tiny-llama-1b-chat") == Int4Recipe(symmetric=False, group_size=128, ratio=0.8)
        assert int4_recipe("llama-2-chat-7b", "meta-llama/Llama-2-7b-chat-hf@1") == Int4Recipe(True, 128, 0.8)
        assert int4_recipe("notus-7b-v1") == Int4Recipe(symmetric=True, group_size=64, ratio=0.6)
        assert int4_recipe("smollm2-135m-instruct") == Int4Recipe(symmetric=False, group_size=64, ratio=0.8)

    @pytest.mark.parametrize(
        ("name", "source"),
        [("qwen3-4b", None), ("Qwen3-4B", "Qwen/Qwen3-4B@1"), ("my-own", "/models/Qwen3-4B"), ("Qwen3-4B", None)],
    )
    def test_optimums_where_it_has_the_model(self, name: str, source: str | None) -> None:
        recipe = int4_recipe(name, source)
        assert recipe == Int4Recipe(symmetric=True, group_size=128, ratio=1.0, data_free_awq=True)

    def test_optimums_data_set_gives_way_to_the_chats(self) -> None:
        recipe = int4_recipe("qwen3-8b")
        assert recipe == Int4Recipe(group_size=128, ratio=1.0, awq=False, scale_estimation=True)

    @pytest.mark.parametrize("source", [None, "somebody/unheard-of@1", "microsoft/Phi-4-multimodal-instruct@1"])
    def test_one_for_all_others(self, source: str | None) -> None:
        assert int4_recipe("unheard-of", source) == Int4Recipe(symmetric=False, group_size=128, ratio=0.8)


@pytest.mark.slow
def test_import_is_light() -> None:
    program = "import sys, text_generation.prepare.models; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "openvino", "numpy"} & set(done.stdout.split())
