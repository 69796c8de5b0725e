"""The arithmetic between timelines and the tables."""

import json

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from benchmarks import table
from benchmarks.memory_bandwidth import weight_bytes_per_token
from benchmarks.results import Goal, Results, Row, Spread, instruction_set
from benchmarks.workload import Answer, Run, Workload

WORKLOAD = Workload(clients=2, requests=1, new_tokens=3)


def a_run(slowness: float = 1.0) -> Run:
    """Two clients with three tokens each: the first one's at 0.1, 0.3 and 0.5 s, the second one's 0.1 s later."""
    first = Answer(10.0, [10 + slowness * at for at in (0.1, 0.3, 0.5)], 10 + slowness * 0.5)
    second = Answer(10.0, [10 + slowness * at for at in (0.2, 0.4, 0.6)], 10 + slowness * 0.6)
    return Run(WORKLOAD, [first, second], 1000)


def test_throughput_is_all_tokens_over_all_the_time():
    assert a_run().tokens_per_s == pytest.approx(6 / 0.6)


def test_a_row_has_the_median_of_the_repeats_and_their_spread():
    row = Row.of("model", "subject", [a_run(1), a_run(4), a_run(2)], limit_tokens_per_s=100)
    assert row.tokens_per_s == Spread(pytest.approx(5), pytest.approx(2.5), pytest.approx(10))
    assert row.first_token_ms == pytest.approx(300)  # of 100, 200, 200, 400, 400, 800
    assert row.between_ms == pytest.approx(400)
    assert row.limit_share is None, "two clients share a pass over the weights"


def test_one_client_has_a_share_of_the_limit():
    alone = Run(Workload(1, 1, 5), [Answer(0.0, [0.1, 0.5], 0.5)], 1000)
    assert Row.of("model", "subject", [alone], limit_tokens_per_s=40).limit_share == pytest.approx(0.25)


@pytest.mark.parametrize(("at_most", "reached"), [(True, False), (False, True)])
def test_a_goal_is_judged_by_its_median(at_most, reached):
    goal = Goal("name", "model", 10, at_most, " ms", Spread(11, 9, 12))
    assert goal.reached is reached
    assert ("| yes" if reached else "| no ") in table.render(some_results(goal))


def test_the_file_holds_what_the_table_shows(tmp_path):
    results = some_results(Goal("name", "model", 2, False, "", Spread(3, 2, 4)))
    results.save(tmp_path / "results.json")
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["goals"][0]["reached"] is True
    assert saved["rows"][0]["tokens_per_s"]["median"] == pytest.approx(10)
    assert saved["rows"][0]["workload"] == {"clients": 2, "requests": 1, "new_tokens": 3}


def some_results(goal: Goal) -> Results:
    """One row and one goal."""
    results = Results([], "today", {}, {}, {"model": Spread(10, 9, 11)}, {"model": 100.0})
    results.rows.append(Row.of("model", "subject", [a_run()], 100))
    results.goals.append(goal)
    return results


def test_a_step_reads_the_weights_of_products_but_not_a_table_that_is_looked_up():
    ids = ops.parameter([-1], ov.Type.i64)
    embeddings = ops.constant(ov.Tensor(ov.Type.f32, [100, 8]))
    weights = ops.multiply(
        ops.convert(ops.constant(ov.Tensor(ov.Type.u8, [8, 16])), ov.Type.f32), ops.constant(np.float32([[2]]))
    )
    logits = ops.matmul(ops.gather(embeddings, ids, ops.constant(np.int64(0))), weights, False, False)
    model = ov.Model([ops.result(logits)], [ids], "model")
    assert weight_bytes_per_token(model) == 8 * 16 + 4


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("fpu sse4_2 avx avx2 fma", "AVX2"),
        ("avx avx2 avx512f avx512_vnni amx_int8", "AVX2, AVX-512, AVX-512 VNNI, AMX"),
        ("fpu sse4_2 avx", "neither AVX2 nor later"),
    ],
)
def test_the_instruction_set_is_named(flags, named):
    assert instruction_set(flags.split()) == named
