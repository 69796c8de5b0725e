"""Requests at a given rate: their times, and the summary of their answers."""

import pytest

from benchmarks.open_loop import PROMPTS, SECONDS, Load, arrivals
from benchmarks.workload import Answer


def test_everybody_gets_the_same_requests_at_a_rate():
    times, prompts = arrivals(8)
    assert (times, prompts) == arrivals(8)
    assert times == sorted(times)
    assert times[-1] < SECONDS
    assert len(times) == pytest.approx(8 * SECONDS, rel=0.2)
    assert set(prompts[: len(PROMPTS)]) == set(PROMPTS), "each prompt comes before one comes again"


def test_goodput_counts_first_tokens_within_the_limit():
    answers = [Answer(0.0, [1.0, 1.5, 2.0], 2.0), Answer(1.0, [4.0, 4.1], 4.1)]
    load = Load.of("a server", 1, answers, [3, 2])
    assert load.goodput == pytest.approx(1 / 4.1)
    assert load.first_token_ms == pytest.approx(2000)
    assert load.per_token_ms == pytest.approx(300)  # of 500 and 100
    assert load.tokens_per_s == pytest.approx(5 / 4.1)
    assert not load.kept


def test_an_answer_without_text_has_its_first_token_at_its_end():
    load = Load.of("a server", 1, [Answer(0.0, [], 0.5), Answer(0.0, [0.1, 0.2], 0.2)], [0, 2])
    assert load.first_token_ms == pytest.approx(300)
    assert load.kept
