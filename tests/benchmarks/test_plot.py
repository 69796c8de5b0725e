"""The plot is written even if a run was incomplete."""

import pytest

from benchmarks import plot
from benchmarks.results import Results, Row
from benchmarks.workload import Answer, Run, Workload


@pytest.mark.parametrize("subjects", [["server, genai"], ["server, genai", "llama-server", "one without a style"]])
def test_a_picture_of_what_there_is(tmp_path, subjects):
    results = Results([], "today", {"cpu": "a CPU", "instructions": "AVX2", "cores": "2"}, {})
    for clients in (1, 8):
        answers = [Answer(0.0, [0.1, 0.2], 0.2)] * clients
        runs = [Run(Workload(clients, 1, 2), answers, 1000)]
        results.rows += [Row.of("a model", subject, runs, limit_tokens_per_s=100) for subject in subjects]
    plot.draw(results, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
