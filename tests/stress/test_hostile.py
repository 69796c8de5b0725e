"""ovms_local under attack, with requests from tests/support/hostile.py, in the number given by the scale."""

import pytest

from ovms_local.testing import serve
from tests.support import hostile

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


def test_mutated_requests_do_no_harm(scale, report, tmp_path):
    with (
        report.row("ovms_local: mutated gRPC messages and REST requests") as row,
        serve(hostile.SERVABLE, env={"EVENTS": str(tmp_path / "events")}) as server,
    ):
        attack = hostile.attack(server, scale.hostile_requests)
        row.done, row.measured = attack.sent, f"slowest {attack.slowest:.2f} s, memory {attack.memory_growth:+.1%}"
        row.lost += attack.problems
        assert attack.memory_growth < 0.05
