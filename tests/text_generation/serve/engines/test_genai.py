"""Specifics of GenAI's engine: one running batch, a cache of fixed size, a separate process."""

import contextlib
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.support import ROOT, watch
from tests.support.checkpoints import write_checkpoint
from tests.support.ov_config import F32, ov_config
from text_generation.errors import RequestError
from text_generation.model_folder import ModelFolderError
from text_generation.serve import loading
from text_generation.serve.chat import Chat
from text_generation.serve.engines.genai import GenaiEngine
from text_generation.serve.sampling import SamplingParams
from text_generation.serve.settings import Settings

pytestmark = pytest.mark.slow

TOPICS = ["gravity", "bread", "Paris", "a whale", "chess", "rain", "steel", "jazz"]
TOPICS += ["a bee", "Rome", "glass", "tea", "a comet", "silk", "a map", "salt"]


@pytest.fixture(scope="module")
def chat(int8_model):
    """A chat with the 8-bit model."""
    chat = Chat(Settings(model_path=int8_model, engine="genai", kv_cache_gb=1, ignore_eos=True))
    yield chat
    chat.close()


def generating_processes() -> list[psutil.Process]:
    return [process for process in psutil.Process().children() if "genai_worker" in " ".join(process.cmdline())]


def test_a_failure_while_a_request_starts_is_that_requests_alone(chat):
    """An empty prompt, which the pipeline rejects, does not affect the running request or later ones."""
    story = chat.encode(["Tell me a story."])
    go_on = SamplingParams(temperature=0, max_tokens=30)
    with chat.generate(story, go_on) as running:
        next(running)
        with pytest.raises(RuntimeError, match=r"(?i)prompt|input|shape"), chat.generate([[]], go_on) as refused:
            refused.join()
        running.join()
    assert running.token_count == 30
    with chat.generate(story, go_on) as later:
        later.join()
    assert later.token_count == 30


def test_its_threads_may_run_on_any_core(int8_model):
    """If OpenVINO pinned them, those of several servers would share the first cores."""
    others, cores = generating_processes(), set()
    settings = Settings(
        model_path=int8_model, engine="genai", kv_cache_gb=1, ov_config=ov_config(INFERENCE_NUM_THREADS=2)
    )
    with contextlib.closing(Chat(settings)) as chat:
        (process,) = [process for process in generating_processes() if process not in others]
        for _ in chat.generate(chat.encode(["Hi"]), SamplingParams(max_tokens=30)):
            cores |= {frozenset(os.sched_getaffinity(thread.id)) for thread in process.threads()}
    assert cores == {frozenset(os.sched_getaffinity(0))}


def test_a_prompt_that_never_fits_the_cache_is_an_error(tmp_path):
    """A random model whose keys and values take 1 MB per token in FP32, so that 1 GB holds about 1,000 tokens."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 8, "num_attention_heads": 16, "num_key_value_heads": 16}
    checkpoint = write_checkpoint(tmp_path / "wide", **sizes, head_dim=1024, max_position_embeddings=4096)
    download = [sys.executable, ROOT / "download_model.py", "--model", "wide-model", "--source", checkpoint]
    subprocess.run([*download, "--output-dir", tmp_path], check=True)
    chat = Chat(
        Settings(model_path=tmp_path / "wide-model", engine="genai", kv_cache_gb=1, ignore_eos=True, ov_config=F32)
    )
    try:
        (prompt,) = chat.encode(["word " * 1000])
        with pytest.raises(RequestError, match="raise KV_CACHE_GB"):
            chat.generate([(prompt * 2)[:2000]], SamplingParams(max_tokens=1)).join()
        short = chat.generate(chat.encode(["Hi"]), SamplingParams(max_tokens=3))
        short.join()
        assert 0 < short.token_count <= 3
    finally:
        chat.close()


def test_many_readers_each_get_their_own_text(chat):
    """Greedy answers under concurrency begin as they do alone: no request gets another one's pieces."""
    questions = [f"What is {topic}?" for topic in TOPICS]
    start = SamplingParams(temperature=0, max_tokens=4)

    def answer(question: str) -> str:
        with chat.generate(chat.encode([question]), start) as generation:
            return generation.join()[0]

    alone = [answer(question) for question in questions]
    assert len(set(alone)) == len(alone)
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(answer, questions))
    assert together == alone


def test_a_dead_process_costs_what_ran_and_no_more(chat):
    """As when the kernel kills it because of low memory."""
    question = chat.encode(["Hi"])
    with chat.generate(question, SamplingParams(max_tokens=4000)) as running:
        next(running)
        (generating,) = generating_processes()
        generating.kill()
        with pytest.raises(RuntimeError, match=r"the generating process ended \(-9\)"):
            running.join()
    later = chat.generate(question, SamplingParams(max_tokens=5))
    later.join()
    assert later.token_count == 5


def test_a_process_that_cannot_be_started_is_tried_again_when_somebody_asks(int8_model, tmp_path):
    folder = tmp_path / "model"
    folder.symlink_to(int8_model)
    others = generating_processes()
    chat = Chat(Settings(model_path=folder, engine="genai", kv_cache_gb=1, ignore_eos=True))
    few = SamplingParams(max_tokens=5)
    question = chat.encode(["Hi"])
    try:
        folder.unlink()
        [generating] = [process for process in generating_processes() if process not in others]
        generating.kill()
        for _ in range(2):
            with pytest.raises(RuntimeError, match="the generating process"):
                chat.generate(question, few).join()
        folder.symlink_to(int8_model)
        # The attempt triggered before this may still be failing.
        watch.until(lambda: answers(chat, question, few))
    finally:
        chat.close()
    assert generating_processes() == others


def answers(chat: Chat, prompt: list[list[int]], sampling: SamplingParams) -> bool:
    try:
        return chat.generate(prompt, sampling).join() != [""]
    except RuntimeError:
        return False


def test_waiting_for_another_process_ends_with_the_engine(int8_model):
    others = generating_processes()
    chat = Chat(Settings(model_path=int8_model, engine="genai", kv_cache_gb=1, ignore_eos=True))
    question = chat.encode(["Hi"])
    running = chat.generate(question, SamplingParams(max_tokens=4000))
    next(running)
    [generating] = [process for process in generating_processes() if process not in others]
    generating.kill()
    with pytest.raises(RuntimeError, match="ended"):
        running.join()
    with chat.generate(question, SamplingParams(max_tokens=5)) as waiting:
        assert next(waiting) == [""]
        chat.close()
        with pytest.raises(RuntimeError, match="closed"):
            next(waiting)
    assert generating_processes() == others


def test_a_process_that_fails_its_first_request_is_ended(int8_model):
    others = generating_processes()
    settings = Settings(
        model_path=int8_model, engine="genai", kv_cache_gb=1, ignore_eos=True, max_prompt_tokens_per_request=5
    )
    with pytest.raises(ModelFolderError, match="MAX_PROMPT_TOKENS_PER_REQUEST is 5"):
        loading.acquire(settings)
    assert generating_processes() == others


def test_a_model_that_it_runs_incorrectly_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "falcon", "alibi": true}')
    with pytest.raises(ModelFolderError, match=r"config\.json describes a model that GenAI runs incorrectly: use"):
        GenaiEngine(Settings(model_path=tmp_path))


def test_closing_ends_what_runs(int8_model):
    others = generating_processes()
    chat = Chat(Settings(model_path=int8_model, engine="genai", kv_cache_gb=1, ignore_eos=True))
    threads = threading.active_count()
    generation = chat.generate(chat.encode(["Hi"]), SamplingParams(max_tokens=4000))
    next(generation)
    chat.close()
    with pytest.raises(RuntimeError, match="closed"):
        generation.join()
    with pytest.raises(RuntimeError, match="closed"):
        chat.generate(chat.encode(["Hi"]), SamplingParams()).join()
    assert threading.active_count() < threads
    assert generating_processes() == others
