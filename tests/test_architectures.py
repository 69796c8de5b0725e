"""Tiny models of current architectures, end to end: the Hub, the two commands, both engines.

The answers are compared with those of Hugging Face's `generate` for the checkpoint.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from tests.support.checkpoints import byte_level_tokenizer, sentencepiece_tokenizer, write_checkpoint
from tests.support.cores import worker_core
from tests.support.ov_config import F32
from tests.support.stand_in_hub import read_files, serve_hub
from text_generation import model_folder
from text_generation.serve.chat import Chat
from text_generation.serve.sampling import SamplingParams
from text_generation.serve.settings import Settings

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow

TOKENS = 16
GREEDY = SamplingParams(temperature=0, repetition_penalty=1.0, max_tokens=TOKENS)
QUESTIONS = ["What is the capital?", "Who asks? déjà vu 😀", "  for number in range(3):\n    print(number)"]
LLAMA_3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
PHI_4_ROPE = {"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3, 1.5, 2.0], "long_factor": [1.0, 1, 2, 4, 8, 16]}
# Their embeddings must be smaller, or they would dominate what the layers add.
GEMMA = {"head_dim": 32, "sliding_window": 8, "initializer_range": 0.05}
# Each with its differences: type, tokenizer, and sizes in addition to checkpoints.SIZES.
ARCHITECTURES: dict[str, tuple[str, Callable[[], Tokenizer], dict[str, Any]]] = {
    "llama-2": ("llama", sentencepiece_tokenizer, {"num_key_value_heads": 4, "tie_word_embeddings": False}),
    "llama-3": ("llama", byte_level_tokenizer, {"tie_word_embeddings": True, "rope_scaling": LLAMA_3_ROPE}),
    "qwen2": ("qwen2", byte_level_tokenizer, {"tie_word_embeddings": False}),
    "qwen3": ("qwen3", byte_level_tokenizer, {"head_dim": 32, "tie_word_embeddings": True}),
    "mistral": ("mistral", sentencepiece_tokenizer, {"sliding_window": None}),
    "phi3": (
        "phi3",
        byte_level_tokenizer,
        {
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 128,
            "rope_scaling": PHI_4_ROPE,
            "tie_word_embeddings": True,
        },
    ),
    "gemma2": ("gemma2", sentencepiece_tokenizer, GEMMA | {"query_pre_attn_scalar": 32}),
    "gemma3": ("gemma3_text", sentencepiece_tokenizer, GEMMA),
    "granite": ("granite", byte_level_tokenizer, {"embedding_multiplier": 2.0, "logits_scaling": 0.5}),
    "smollm3": ("smollm3", byte_level_tokenizer, {"num_hidden_layers": 4, "no_rope_layer_interval": 4}),
}
RUN_FOR_ALL = """
import os, runpy, sys
from tests.support.ov_config import F32
script, *options = sys.argv[2:]
for name in sys.argv[1].split(","):
    sys.argv = [script, "--model", name, *options]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as error:
        print(f"failed: {name}: {error}")
"""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        name: write_checkpoint(folder / name, model_type, tokenizer(), **sizes)
        for name, (model_type, tokenizer, sizes) in ARCHITECTURES.items()
    }


@pytest.fixture(scope="module")
def prepared(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that both commands have worked in, by one process each for all models, and what they printed."""
    folder = tmp_path_factory.mktemp("models")

    def run_for_all(names: list[str], script: str, *options: str, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", RUN_FOR_ALL, ",".join(names), str(ROOT / script), *options],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    ids = [f"org/{name}" for name in checkpoints]
    repositories = dict(zip(ids, map(read_files, checkpoints.values()), strict=True))
    with worker_core(), serve_hub(repositories) as hub:
        output = run_for_all(ids, "download_model.py", HF_ENDPOINT=hub.address, HF_HOME=str(folder / "hf"))
        return folder, output + run_for_all(list(checkpoints), "compress_model.py", "--precision", "INT8", "INT4")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_is_exported_and_compressed(prepared: tuple[Path, str], checkpoints: dict[str, Path], name: str) -> None:
    folder, output = prepared
    assert f"failed: {name}:" not in output
    assert f"failed: org/{name}:" not in output
    for suffix, precision in (("", "FP32"), ("_INT8_compressed_weights", "INT8"), ("_INT4_compressed_weights", "INT4")):
        model = folder / f"{name}{suffix}"
        info = model_folder.check(model)
        assert (info.precision, info.source.partition("@")[0]) == (precision, f"org/{name}")
        assert model_folder.read_ir(model).precision == precision
        for file in ("tokenizer.json", "tokenizer_config.json"):
            assert (model / file).read_bytes() == (checkpoints[name] / file).read_bytes()


@pytest.fixture(scope="module")
def expected(checkpoints: dict[str, Path]) -> Callable[[str], list[tuple[list[int], list[int]]]]:
    """Return a checkpoint's token ids for each question's prompt and for Hugging Face's greedy answer to it."""

    @cache
    def answers(name: str) -> list[tuple[list[int], list[int]]]:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoints[name])
        model = AutoModelForCausalLM.from_pretrained(checkpoints[name], dtype=torch.float32)
        found = []
        for question in QUESTIONS:
            chat = [{"role": "user", "content": question}]
            prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
            output = model.generate(torch.tensor([prompt]), max_new_tokens=TOKENS, do_sample=False)[0].tolist()
            found.append((prompt, output[len(prompt) :]))
        return found

    return answers


def completions(chat: Chat, prompts: list[list[int]]) -> list[list[int]]:
    with chat.generate(prompts, GREEDY) as generation:
        generation.join()
    return [completion.token_ids for completion in generation.completions]


def without_special(chat: Chat, token_ids: list[int]) -> list[int]:
    added = chat.tokenizer.get_added_tokens_decoder()
    return [token_id for token_id in token_ids if token_id not in added or not added[token_id].special]


@pytest.mark.parametrize("engine", ["optimum", "genai"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_answers_as_hugging_face_does(prepared: tuple[Path, str], expected: Callable, name: str, engine: str) -> None:
    """Three questions alone and as a batch, in FP32."""
    settings = Settings(model_path=prepared[0] / name, engine=engine, device="CPU", ov_config=F32, kv_cache_gb=1)
    prompts, answers = zip(*expected(name), strict=True)
    with contextlib.closing(Chat(settings)) as chat:
        assert chat.encode(QUESTIONS) == list(prompts)
        wanted = [without_special(chat, answer) for answer in answers]
        alone = [completions(chat, [prompt])[0] for prompt in prompts]
        together = completions(chat, list(prompts))
    assert alone == wanted
    assert together == wanted
    assert max(map(len, wanted)) > TOKENS // 2, "nothing to compare"


@pytest.mark.parametrize("engine", ["optimum", "genai"])
def test_a_ready_made_model_answers_too(prepared: tuple[Path, str], expected: Callable, tmp_path, engine: str) -> None:
    """A repository with an OpenVINO model and no checkpoint, as published by others."""
    exported = {
        name: data
        for name, data in read_files(prepared[0] / "qwen3").items()
        if name != model_folder.MODEL_INFO and not name.startswith(("openvino_tokenizer", "openvino_detokenizer"))
    }
    with serve_hub({"org/qwen3-ov": exported}) as hub:
        subprocess.run(
            [sys.executable, str(ROOT / "download_model.py"), "--model", "org/qwen3-ov"],
            cwd=tmp_path,
            env=os.environ | {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf")},
            check=True,
        )
    settings = Settings(model_path=tmp_path / "qwen3-ov", engine=engine, device="CPU", ov_config=F32, kv_cache_gb=1)
    with contextlib.closing(Chat(settings)) as chat:
        for prompt, answer in expected("qwen3"):
            assert completions(chat, [prompt]) == [without_special(chat, answer)]
