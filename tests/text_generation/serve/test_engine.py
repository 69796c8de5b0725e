"""What both engines promise, on the real model."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from text_generation.errors import RequestError
from text_generation.serve import engine as engines
from text_generation.serve.sampling import SamplingParams
from text_generation.serve.settings import Settings

pytestmark = pytest.mark.slow

# With these both engines compute the same, so that without sampling their tokens are the same.
EXACT = json.dumps({"KV_CACHE_PRECISION": "f32", "INFERENCE_PRECISION_HINT": "f32"})
GREEDY = SamplingParams(temperature=0, repetition_penalty=1.0, max_new_tokens=16)
TOPICS = ["gravity", "bread", "Paris", "whales", "chess", "rain", "steel", "jazz", "bees", "Rome", "glass", "tea"]
TOPICS += ["comets", "silk", "maps", "salt", "ice", "clocks", "paper", "wolves"]
QUESTIONS = [f"What is worth knowing about {topic}?" for topic in TOPICS]


@pytest.fixture(scope="module", params=["optimum", "genai"])
def loaded(request, int8_model):
    """Prompts and engine on the 8-bit model."""
    settings = Settings(model_path=int8_model, engine=request.param, kv_cache_gb=1)
    prompts, engine = engines.load(settings)
    yield prompts, engine
    engine.close()


def test_both_engines_give_the_same_tokens(fp32_model):
    """20 prompts alone and eight at a time: four lists of token ids per prompt, all equal."""
    found = {}
    for name in ("optimum", "genai"):
        settings = Settings(model_path=fp32_model, engine=name, ov_config=EXACT, kv_cache_gb=1)
        prompts, engine = engines.load(settings)
        try:
            encoded = prompts.encode(QUESTIONS)
            found[name, "alone"] = [_token_ids(engine, prompt) for prompt in encoded]
            with ThreadPoolExecutor(8) as pool:
                found[name, "eight at a time"] = list(pool.map(lambda p, e=engine: _token_ids(e, p), encoded))
        finally:
            engine.close()
    reference = found["optimum", "alone"]
    assert all(len(token_ids) > 5 for token_ids in reference)
    for way, token_ids in found.items():
        differing = [topic for topic, one, other in zip(TOPICS, token_ids, reference, strict=True) if one != other]
        assert not differing, f"{way} differs from Optimum alone on {differing}"


def test_a_prompt_answers_alike_alone_and_in_a_request_of_several(loaded):
    """INT8 arithmetic differs a little between batch sizes, so the beginning is what is compared."""
    prompts, engine = loaded
    encoded = prompts.encode(["What is the capital of France?", "Hi", "Who was Albert Einstein and what did he do?"])
    start = SamplingParams(temperature=0, max_new_tokens=4)
    with engine.submit(encoded, start) as together:
        together.join()
    for prompt, token_ids in zip(encoded, together.token_ids, strict=True):
        assert _token_ids(engine, prompt, start) == token_ids


def test_pieces_joined_are_the_decoded_completion(loaded):
    prompts, engine = loaded
    encoded = prompts.encode(["Write a line of emoji and one of Chinese.", "Hi"])
    with engine.submit(encoded, SamplingParams(seed=3, max_new_tokens=60, ignore_eos=True)) as generation:
        texts = generation.join()
    assert texts == [prompts.tokenizer.decode(token_ids) for token_ids in generation.token_ids]
    assert generation.token_count == sum(map(len, generation.token_ids))


def test_the_end_of_a_turn_ends_the_completion(loaded):
    prompts, engine = loaded
    with engine.submit(prompts.encode(["Hi"]), SamplingParams(temperature=0, max_new_tokens=200)) as generation:
        text = generation.join()[0]
    assert 0 < generation.token_count < 200
    assert "<|im_end|>" not in text


def test_a_budget_is_kept_to_the_token(loaded):
    prompts, engine = loaded
    for budget in (1, 2, 17):
        with engine.submit(prompts.encode(["Tell me a story."]), _fixed(budget)) as generation:
            generation.join()
        assert generation.token_count == budget


def test_requests_join_and_leave_while_others_run(loaded):
    """Eight threads with budgets of their own: each gets exactly its tokens, whoever leaves early."""
    prompts, engine = loaded
    prompt = prompts.encode(["Tell me a story."])[0]
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda budget: len(_token_ids(engine, prompt, _fixed(budget))), range(1, 41, 5)))
    assert counts == list(range(1, 41, 5))


def test_who_waits_has_empty_pieces_and_may_leave(int8_model):
    for name in ("optimum", "genai"):
        settings = Settings(
            model_path=int8_model, engine=name, max_concurrent_requests=1, max_queued_requests=1, kv_cache_gb=1
        )
        prompts, engine = engines.load(settings)
        try:
            prompt = prompts.encode(["Tell me a long story."])
            with engine.submit(prompt, _fixed(2000)) as running:
                next(running)
                for _ in range(2):  # the second finds the queue empty again
                    with engine.submit(prompt, _fixed(1)) as waiting:
                        assert next(waiting) == [""], name
                    assert waiting.token_count == 0
        finally:
            engine.close()


def test_leaving_a_generation_frees_its_place(int8_model):
    """With room for one request, a second one gets its answer only once the first one was left."""
    for name in ("optimum", "genai"):
        settings = Settings(model_path=int8_model, engine=name, max_concurrent_requests=1, kv_cache_gb=1)
        prompts, engine = engines.load(settings)
        try:
            prompt = prompts.encode(["Tell me a long story."])
            got = threading.Event()

            def second(engine=engine, prompt=prompt, got=got):
                with engine.submit(prompt, _fixed(1)) as generation:
                    generation.join()
                got.set()

            with engine.submit(prompt, _fixed(2000)) as first:
                next(first)
                thread = threading.Thread(target=second)
                thread.start()
                for _ in range(5):
                    next(first)
                assert not got.is_set(), name
            assert got.wait(30), name
            thread.join()
            assert first.token_count < 100
        finally:
            engine.close()


@pytest.mark.parametrize("name", ["optimum", "genai"])
def test_prompt_and_completion_share_the_context(int8_model, tmp_path, name):
    """On a copy that says it has a small context, so that filling it takes no minutes."""
    context = 64
    for path in int8_model.iterdir():
        if path.name not in ("config.json", "model_info.json"):
            (tmp_path / path.name).symlink_to(path)
    config = json.loads((int8_model / "config.json").read_text()) | {"max_position_embeddings": context}
    (tmp_path / "config.json").write_text(json.dumps(config))
    prompts, engine = engines.load(Settings(model_path=tmp_path, engine=name, kv_cache_gb=1))
    try:
        long_prompt = prompts.encode(["word " * context])[0]
        assert len(_token_ids(engine, long_prompt[: context - 3], _fixed(50))) == 3
        with pytest.raises(RequestError, match=f"a prompt has {context} tokens.* context of {context}"):
            engine.submit([long_prompt[:context]], _fixed(1))
    finally:
        engine.close()


def _fixed(tokens: int) -> SamplingParams:
    # Without sampling this model, told to go on, stays away from special tokens, which are not counted.
    return SamplingParams(temperature=0, max_new_tokens=tokens, ignore_eos=True)


def _token_ids(engine: engines.Engine, prompt: list[int], sampling: SamplingParams = GREEDY) -> list[int]:
    with engine.submit([prompt], sampling) as generation:
        generation.join()
    return generation.token_ids[0]
