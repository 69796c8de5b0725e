import subprocess
import sys

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from text_generation.prepare.models import MODELS, Int4Recipe

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye"},
]
ZEPHYR = "<|system|>\nBe brief.</s>\n<|user|>\nHi</s>\n<|assistant|>\nHello.</s>\n<|user|>\nBye</s>\n<|assistant|>\n"
# As the makers describe them: the model cards, and https://huggingface.co/blog/llama2#how-to-prompt-llama-2
RENDERED = {
    "tiny-llama-1b-chat": ZEPHYR,
    "notus-7b-v1": ZEPHYR,
    "llama-2-chat-7b": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello. </s><s>[INST] Bye [/INST]",
    "smollm2-135m-instruct": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
}


@pytest.mark.parametrize("name", MODELS)
def test_fallback_chat_template(name: str) -> None:
    template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(
        MODELS[name].chat_template()
    )
    rendered = template.render(messages=CHAT, add_generation_prompt=True, bos_token="<s>", eos_token="</s>")
    assert rendered == RENDERED[name]


@pytest.mark.parametrize(
    ("hidden_size", "group_size"), [(2048, 128), (4096, 128), (576, 64), (64, 64), (96, 32), (7, 1)]
)
def test_group_size_divides_the_hidden_size(hidden_size: int, group_size: int) -> None:
    recipe = Int4Recipe(symmetric=False, group_size=128, ratio=0.8)
    assert recipe.fitted(hidden_size) == Int4Recipe(symmetric=False, group_size=group_size, ratio=0.8)


def test_import_is_light() -> None:
    program = "import sys, text_generation.prepare.models; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "openvino", "numpy"} & set(done.stdout.split())
