"""Specifics of Optimum's engine: one left-padded batch, seeds, logits of the last position only."""

import contextlib
import math
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from text_generation.model_folder import ModelFolderError
from text_generation.serve import loading
from text_generation.serve.chat import Chat
from text_generation.serve.engines import optimum
from text_generation.serve.engines.optimum import keep_last_logits, left_pad
from text_generation.serve.sampling import SamplingParams
from text_generation.serve.settings import Settings


def test_left_padding_masks_what_it_adds():
    token_ids, mask = left_pad([[5, 6, 7], [8]], budget=2)
    assert token_ids[:, :3].tolist() == [[5, 6, 7], [8, 8, 8]]
    assert mask.tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert token_ids.dtype == mask.dtype == np.int64


def test_padding_adds_no_token_that_the_prompt_does_not_have():
    """The repetition penalty looks at all ids of a row, including padding."""
    prompts = [[3, 9, 4, 9], [6, 2]]
    token_ids, _ = left_pad(prompts, budget=0)
    assert [set(row) for row in token_ids.tolist()] == [set(prompt) for prompt in prompts]


def a_model(*, scaled: bool = False, head: str = "MatMul") -> ov.Model:
    """hidden states [n, length, 4] -> logits [n, length, 8], like the end of exported models."""
    hidden = ops.parameter([-1, -1, 4], name="hidden")
    weights = np.arange(32, dtype=np.float32).reshape(4, 8)
    logits = ops.matmul(hidden, ops.constant(weights), transpose_a=False, transpose_b=False)
    if scaled:
        logits = ops.multiply(logits, ops.constant(np.float32(0.5)))
    if head == "Softmax":
        logits = ops.softmax(logits, 2)
    logits.output(0).set_names({"logits"})
    return ov.Model([ops.result(logits)], [hidden], "head")


@pytest.mark.parametrize("scaled", [False, True])
def test_only_the_last_position_is_projected(scaled):
    hidden = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    expected = ov.Core().compile_model(a_model(scaled=scaled), "CPU")([hidden])["logits"][:, -1:]
    model = a_model(scaled=scaled)
    keep_last_logits(model)
    found = ov.Core().compile_model(model, "CPU")([hidden])["logits"]
    assert found.shape == (2, 1, 8)
    np.testing.assert_allclose(found, expected, rtol=1e-2)


def test_a_model_of_another_shape_is_left_as_it_is():
    model = a_model(head="Softmax")
    keep_last_logits(model)
    hidden = np.zeros((2, 5, 4), dtype=np.float32)
    assert ov.Core().compile_model(model, "CPU")([hidden])["logits"].shape == (2, 5, 8)


GREEDY = SamplingParams(temperature=0, max_tokens=60)


@pytest.fixture(scope="module")
def chat(int8_model):
    """A chat with the 8-bit model."""
    chat = Chat(Settings(model_path=int8_model))
    yield chat
    chat.close()


@pytest.mark.slow
def test_a_seed_repeats_while_other_requests_run(chat):
    prompt = chat.encode(["Tell me a story."])

    def answer(seed: int) -> list[int]:
        with chat.generate(prompt, SamplingParams(seed=seed, max_tokens=20)) as generation:
            generation.join()
        return generation.completions[0].token_ids

    alone = [answer(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answer, range(4))) == alone
    assert len({tuple(token_ids) for token_ids in alone}) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("interval_s", "stop", "expected"),
    [(math.inf, (), [1, 9]), (math.inf, ("never this",), [1] * 10), (0, (), [1] * 10)],
)
def test_tokens_that_come_soon_after_each_other_come_together(chat, monkeypatch, interval_s, stop, expected):
    """All but the first, and those of a request with stop strings, which may end at any token."""
    monkeypatch.setattr(optimum, "STEP_INTERVAL_S", interval_s)
    story = SamplingParams(temperature=0, max_tokens=10, stop=stop)
    with chat.generate(chat.encode(["Tell me a story."]), story) as generation:
        counts = [generation.token_count for _ in generation]
    assert [later - earlier for earlier, later in zip([0, *counts], counts, strict=False)] == expected


@pytest.mark.slow
def test_a_row_that_ends_leaves_the_others_alone(chat, int8_model):
    """A long answer is the same whether its neighbour in the batch continues or ends early."""
    prompts = chat.encode(["Tell me a story.", "Hi"])
    endless = Chat(Settings(model_path=int8_model, ignore_eos=True))
    with endless.generate(prompts, GREEDY) as generation:
        generation.join()
    goes_on, _ = generation.completions
    endless.close()
    with chat.generate(prompts, GREEDY) as generation:
        [text, _] = generation.join()
    long, short = generation.completions
    assert len(short.token_ids) < 40
    assert long.token_ids[:12] == goes_on.token_ids[:12]
    assert text.count(" ") > 20


@pytest.mark.slow
def test_a_text_has_the_tokens_of_generate(chat, int8_model):
    """Compared with the same model in OVModelForCausalLM.generate, without sampling."""
    import torch
    from optimum.intel import OVModelForCausalLM

    (prompt,) = chat.encode(["What is the theory of relativity?"])
    plain = OVModelForCausalLM.from_pretrained(int8_model, export=False)
    wanted = plain.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False, repetition_penalty=1.1)
    with chat.generate([prompt], SamplingParams(temperature=0, max_tokens=8)) as generation:
        generation.join()
    assert generation.completions[0].token_ids == wanted[0, len(prompt) :].tolist()


@pytest.mark.slow
def test_nothing_is_kept_in_the_model_folder_for_a_gpu(int8_model, tmp_path, monkeypatch):
    """Without a GPU, the folder would still be written to before that is noticed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "elsewhere"))  # Optimum does not write to temporary folders
    folder = tmp_path / "model"
    folder.mkdir()
    for path in int8_model.iterdir():
        (folder / path.name).symlink_to(path)
    names = {path.name for path in folder.iterdir()}
    with contextlib.suppress(ModelFolderError):
        loading.acquire(Settings(model_path=folder, device="AUTO:GPU,CPU"))
    assert {path.name for path in folder.iterdir()} == names
