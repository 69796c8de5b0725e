"""The sampler, compared with distributions computed by hand."""

import numpy as np
import pytest
import torch
from scipy import stats

from text_generation.serve.engines.sampler import Sampler, chosen_logprobs
from text_generation.serve.sampling import SamplingParams

DRAWS = 20_000
VOCABULARY = 64
# Every fourth token has been seen, both likely and unlikely ones, one of them twice.
HISTORY = [0, 4, 8, 8, 12, 16, 40, 60]
# This many of them, at the end, belong to the completion.
GENERATED = 6


@pytest.fixture
def logits() -> torch.Tensor:
    """float [vocabulary], with both signs, unsorted."""
    return 2 * torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(7))


def exact_probabilities(logits: torch.Tensor, params: SamplingParams) -> np.ndarray:
    """Return the expected probability of each token, computed directly over the whole vocabulary."""
    scores = logits.double().numpy().copy()
    for token in set(HISTORY):
        scores[token] = (
            scores[token] / params.repetition_penalty
            if scores[token] > 0
            else (scores[token] * params.repetition_penalty)
        )
    for token in set(HISTORY[-GENERATED:]):
        times = HISTORY[-GENERATED:].count(token)
        scores[token] -= params.presence_penalty + times * params.frequency_penalty
    scores /= params.temperature
    order = np.argsort(-scores)
    if params.top_k:
        scores[order[params.top_k :]] = -np.inf
    probabilities = np.exp(scores - scores.max())
    probabilities /= probabilities.sum()
    # The smallest set of likeliest tokens that reach top_p together.
    before = np.cumsum(probabilities[order]) - probabilities[order]
    probabilities[order[before >= params.top_p]] = 0
    probabilities[probabilities < params.min_p * probabilities.max()] = 0
    return probabilities / probabilities.sum()


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(seed=1),
        SamplingParams(seed=2, top_k=0, repetition_penalty=1.0),
        SamplingParams(seed=3, top_k=10),
        SamplingParams(seed=4, top_k=0, top_p=0.8),
        SamplingParams(seed=5, temperature=0.6),
        SamplingParams(seed=6, temperature=1.7, repetition_penalty=1.0),
        SamplingParams(seed=7, repetition_penalty=1.5),
        SamplingParams(seed=8, temperature=0.7, top_p=0.9, top_k=20, repetition_penalty=1.2),
        SamplingParams(seed=9, top_k=0, repetition_penalty=1.0, min_p=0.1),
        SamplingParams(seed=10, repetition_penalty=1.0, presence_penalty=1.5),
        SamplingParams(seed=11, repetition_penalty=1.0, frequency_penalty=-0.8),
        SamplingParams(seed=12, temperature=0.8, top_p=0.95, min_p=0.05, presence_penalty=0.5, frequency_penalty=0.7),
    ],
    ids=lambda params: str(params.seed),
)
def test_draws_are_distributed_as_asked(logits, params):
    history = torch.tensor([HISTORY]).expand(DRAWS, -1)
    drawn = Sampler(params)(history, logits.expand(DRAWS, -1), GENERATED).numpy()
    counts = np.bincount(drawn, minlength=VOCABULARY)
    expected = exact_probabilities(logits, params)
    assert counts[expected == 0].sum() == 0, "a token that the filters rule out was drawn"
    # Tokens expected fewer than five times are counted together, as the chi-square test requires.
    often = expected * DRAWS >= 5
    observed = np.append(counts[often], counts[~often].sum())
    wanted = np.append(expected[often], expected[~often].sum()) * DRAWS
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    assert stats.chisquare(observed, wanted).pvalue > 0.001


def test_rows_are_drawn_independently(logits):
    """Two identical rows agree as often as two independent draws."""
    sample = Sampler(SamplingParams(seed=9))
    history = torch.tensor([HISTORY]).expand(DRAWS, -1)
    first, second = sample(history, logits.expand(DRAWS, -1), GENERATED).reshape(2, -1)
    agree = (first == second).float().mean().item()
    expected = (exact_probabilities(logits, SamplingParams()) ** 2).sum()
    assert agree == pytest.approx(expected, abs=4 * (expected / len(first)) ** 0.5)


def test_the_penalty_is_each_rows_own(logits):
    history = torch.tensor([[int(logits.argmax())] * 3, [int(logits.argmin())] * 3])
    greedy = Sampler(SamplingParams(temperature=0, repetition_penalty=100.0))
    penalized, free = greedy(history, logits.expand(2, -1), 0).tolist()
    assert free == logits.argmax()
    assert penalized == logits.topk(2).indices[1]


@pytest.mark.parametrize("temperature", [0, 1e-30])
def test_temperature_zero_takes_the_likeliest(logits, temperature):
    greedy = Sampler(SamplingParams(temperature=temperature, repetition_penalty=1.0, top_p=0.1))
    assert greedy(torch.tensor([HISTORY]), logits[None], 0).tolist() == [logits.argmax()]


def test_top_k_beyond_the_vocabulary_is_no_filter(logits):
    params = SamplingParams(seed=1, top_k=10 * VOCABULARY)
    unfiltered = SamplingParams(seed=1, top_k=0)
    history, rows = torch.tensor([HISTORY]).expand(100, -1), logits.expand(100, -1)
    assert Sampler(params)(history, rows, 0).tolist() == Sampler(unfiltered)(history, rows, 0).tolist()


def test_a_seed_repeats_and_no_seed_does_not(logits):
    history, rows = torch.tensor([HISTORY]).expand(100, -1), logits.expand(100, -1)
    draws = [Sampler(SamplingParams(seed=seed))(history, rows, 0).tolist() for seed in (1, 1, 2, None, None)]
    assert draws[0] == draws[1]
    assert len({tuple(draw) for draw in draws}) == 4


def test_other_samplers_do_not_disturb_a_seed(logits):
    """Each request has its own random generator, so that its seed is reproducible while others run."""
    history, row = torch.tensor([HISTORY]), logits[None]
    alone = Sampler(SamplingParams(seed=1))
    undisturbed = [alone(history, row, 0).item() for _ in range(50)]
    sampler, other = Sampler(SamplingParams(seed=1)), Sampler(SamplingParams(seed=2))
    disturbed = []
    for _ in range(50):
        disturbed.append(sampler(history, row, 0).item())
        other(history, row, 0)
        torch.rand(3)
    assert disturbed == undisturbed


def test_the_logits_are_left_as_they_are(logits):
    """They are the infer request's own memory."""
    before = logits.clone()
    Sampler(SamplingParams(seed=1, temperature=0.5, top_p=0.9))(torch.tensor([HISTORY]), logits[None], 0)
    assert torch.equal(logits, before)


def test_logprobs_are_the_models_own(logits):
    expected = logits.double() - logits.double().exp().sum().log()
    assert chosen_logprobs(logits.expand(3, -1), torch.tensor([0, 5, 63])) == pytest.approx(
        [expected[0].item(), expected[5].item(), expected[63].item()], abs=1e-5
    )
