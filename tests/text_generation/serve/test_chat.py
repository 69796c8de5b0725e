"""The guarantees of both engines, with the real model."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.support.ov_config import EXACT
from text_generation.errors import RequestError, TooLongError
from text_generation.serve.chat import Chat
from text_generation.serve.sampling import SamplingParams
from text_generation.serve.settings import Settings

pytestmark = pytest.mark.slow

GREEDY = SamplingParams(temperature=0, repetition_penalty=1.0, max_tokens=16)
TOPICS = ["gravity", "bread", "Paris", "whales", "chess", "rain", "steel", "jazz", "bees", "Rome", "glass", "tea"]
TOPICS += ["comets", "silk", "maps", "salt", "ice", "clocks", "paper", "wolves"]
QUESTIONS = [f"What is worth knowing about {topic}?" for topic in TOPICS]


ENGINES = ["optimum", "genai"]


@contextmanager
def loaded(model_path: Path, **settings: object) -> Iterator[Chat]:
    chat = Chat(Settings(model_path=model_path, **{"kv_cache_gb": 1} | settings))
    try:
        yield chat
    finally:
        chat.close()


@pytest.fixture(scope="module", params=ENGINES)
def chat(request, int8_model) -> Iterator[Chat]:
    """A chat with the 8-bit model."""
    with loaded(int8_model, engine=request.param) as chat:
        yield chat


@pytest.fixture(scope="module", params=ENGINES)
def endless(request, int8_model) -> Iterator[Chat]:
    """A chat whose answers have the maximum length, with one place, and one in the queue."""
    limits = {"max_concurrent_requests": 1, "max_queued_requests": 1}
    with loaded(int8_model, engine=request.param, ignore_eos=True, **limits) as chat:
        yield chat


def test_both_engines_give_the_same_tokens(int8_model):
    """20 prompts, alone and eight at a time: four lists of token ids per prompt, all equal."""
    found = {}
    for name in ENGINES:
        with loaded(int8_model, engine=name, ov_config=EXACT) as chat, ThreadPoolExecutor(8) as pool:
            encoded = chat.encode(QUESTIONS)
            found[name, "alone"] = [_token_ids(chat, prompt) for prompt in encoded]
            found[name, "eight at a time"] = list(pool.map(partial(_token_ids, chat), encoded))
    reference = found["optimum", "alone"]
    assert all(len(token_ids) > 5 for token_ids in reference)
    for way, token_ids in found.items():
        differing = [topic for topic, one, other in zip(TOPICS, token_ids, reference, strict=True) if one != other]
        assert not differing, f"{way} differs from Optimum alone on {differing}"


def test_a_prompt_answers_alike_alone_and_in_a_request_of_several(chat):
    """INT8 arithmetic differs a little between batch sizes, so only the beginning is compared."""
    encoded = chat.encode(["What is the capital of France?", "Hi", "Who was Albert Einstein and what did he do?"])
    start = SamplingParams(temperature=0, max_tokens=4)
    with chat.generate(encoded, start) as together:
        together.join()
    for prompt, completion in zip(encoded, together.completions, strict=True):
        assert _token_ids(chat, prompt, start) == completion.token_ids


def test_pieces_joined_are_the_decoded_completion(endless):
    encoded = endless.encode(["Write a line of emoji and one of Chinese.", "Hi"])
    with endless.generate(encoded, SamplingParams(seed=3, max_tokens=60)) as generation:
        texts = generation.join()
    token_ids = [completion.token_ids for completion in generation.completions]
    assert texts == [endless.tokenizer.decode(own) for own in token_ids]
    assert generation.token_count == sum(map(len, token_ids))
    assert [completion.finish_reason for completion in generation.completions] == ["length", "length"]


def test_the_end_of_a_turn_ends_the_completion(chat):
    with chat.generate(chat.encode(["Hi"]), SamplingParams(temperature=0, max_tokens=200)) as generation:
        text = generation.join()[0]
    assert 0 < generation.token_count < 200
    assert generation.completions[0].finish_reason == "stop"
    assert "<|im_end|>" not in text


def test_a_budget_is_kept_to_the_token(endless):
    for budget in (1, 2, 17):
        with endless.generate(endless.encode(["Tell me a story."]), _fixed(budget)) as generation:
            generation.join()
        assert generation.token_count == budget


@pytest.mark.parametrize("name", ENGINES)
def test_requests_join_and_leave_while_others_run(int8_model, name):
    """Eight threads with different budgets: each gets exactly its tokens, even if others leave early."""
    with loaded(int8_model, engine=name, ignore_eos=True) as chat, ThreadPoolExecutor(8) as pool:
        [prompt] = chat.encode(["Tell me a story."])
        counts = list(pool.map(lambda budget: len(_token_ids(chat, prompt, _fixed(budget))), range(1, 41, 5)))
    assert counts == list(range(1, 41, 5))


def test_who_waits_has_empty_pieces_and_may_leave(endless):
    prompt = endless.encode(["Tell me a long story."])
    with endless.generate(prompt, _fixed(2000)) as running:
        next(running)
        for _ in range(2):  # the second finds the queue empty again
            with endless.generate(prompt, _fixed(1)) as waiting:
                assert next(waiting) == [""]
            assert waiting.token_count == 0


def test_leaving_a_generation_frees_its_place(endless):
    """With one place, a second request gets its answer only after the first one has been left."""
    prompt = endless.encode(["Tell me a long story."])
    got = threading.Event()

    def second():
        with endless.generate(prompt, _fixed(1)) as generation:
            generation.join()
        got.set()

    with endless.generate(prompt, _fixed(2000)) as first:
        next(first)
        thread = threading.Thread(target=second)
        thread.start()
        for _ in range(5):
            next(first)
        assert not got.is_set()
    assert got.wait(30)
    thread.join()
    assert first.token_count < 100


@pytest.mark.parametrize("name", ENGINES)
def test_prompt_and_completion_share_the_context(int8_model, tmp_path, name):
    """On a copy with a small context in its config.json, so that filling it does not take minutes."""
    context = 64
    for path in int8_model.iterdir():
        if path.name not in ("config.json", "model_info.json"):
            (tmp_path / path.name).symlink_to(path)
    config = json.loads((int8_model / "config.json").read_text()) | {"max_position_embeddings": context}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with loaded(tmp_path, engine=name, ignore_eos=True) as chat:
        [long_prompt] = chat.encode(["word " * context])
        assert len(_token_ids(chat, long_prompt[: context - 3], _fixed(50))) == 3
        with pytest.raises(TooLongError, match=f"a prompt has {context} tokens.* context of {context}"):
            chat.generate([long_prompt[:context]], _fixed(1))


def _fixed(tokens: int) -> SamplingParams:
    # Without sampling, if it may not stop, this model avoids special tokens, which are not counted.
    return SamplingParams(temperature=0, max_tokens=tokens)


def _token_ids(chat: Chat, prompt: list[int], sampling: SamplingParams = GREEDY) -> list[int]:
    with chat.generate([prompt], sampling) as generation:
        generation.join()
    return generation.completions[0].token_ids


def test_questions_that_cannot_be_asked_are_refused_with_the_reason(chat):
    for questions, says in [
        ([], "no prompt"),
        ([""], "prompt 1 of 1 is empty"),
        (["a", "b\0c"], "prompt 2 of 2 contains a null byte"),
        (["a"] * 33, "33 prompts, but MAX_PROMPTS_PER_REQUEST is 32"),
    ]:
        with pytest.raises(RequestError, match=says):
            chat.encode(questions)


def test_one_seed_gives_each_of_several_equal_prompts_numbers_of_its_own(chat):
    prompts = chat.encode(["Tell me a story."] * 3)
    with chat.generate(prompts, SamplingParams(seed=5, temperature=1.5, max_tokens=12)) as generation:
        assert len(set(generation.join())) == 3


def test_an_answer_ends_before_a_stop_string_wherever_tokens_split_it(chat):
    """Stop strings of all positions in an answer, so at all splits of its tokens; in pieces and as a whole."""
    [prompt] = chat.encode(["What is the capital of France?"])
    with chat.generate([prompt], GREEDY) as generation:
        [whole] = generation.join()
    assert len(whole) > 20
    for start in range(3, len(whole) - 4, 3):
        stop = whole[start : start + 5]
        with chat.generate([prompt], GREEDY.model_copy(update={"stop": (stop, "never this")})) as generation:
            pieces = [piece for [piece] in generation]
        [completion] = generation.completions
        assert "".join(pieces) == whole[: whole.index(stop)]
        assert completion.finish_reason == "stop"
        assert stop in chat.tokenizer.decode(completion.token_ids)
        assert stop not in chat.tokenizer.decode(completion.token_ids[:-1])


@pytest.mark.parametrize("engine", ENGINES)
def test_logprobs_are_those_of_the_models_distribution_whatever_is_drawn(int8_model, engine):
    """Both settings are greedy enough to generate the same tokens, whose logprobs must then be the same, too."""
    sampling = GREEDY.model_copy(update={"logprobs": True})
    with loaded(int8_model, engine=engine, ov_config=EXACT) as chat:
        [prompt] = chat.encode(["What is the capital of France?"])
        found = []
        for changed in ({}, {"frequency_penalty": 0.01, "temperature": 0.01, "top_k": 2}):
            with chat.generate([prompt], sampling.model_copy(update=changed)) as generation:
                generation.join()
            [completion] = generation.completions
            assert len(completion.logprobs) == len(completion.token_ids) > 5
            found.append(completion.logprobs)
    assert found[0] == pytest.approx(found[1], abs=1e-3)
    assert all(logprob <= 0 for logprob in found[0])
