"""The largest requests within the limits, several at once, stay below the peak given in SECURITY.md."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import clients, watch
from tests.support.ov_config import ov_config
from tests.support.stress_report import Row

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

PEAK_MB = 4000
SETTINGS = {"IGNORE_EOS": 1, "QUEUE_TIMEOUT_S": 3600}


def test_the_largest_requests_at_once(serving, engine, scale, report):
    title = (
        f"{engine}: requests as large as the limits allow, {clients.PROMPTS} prompts or one of 8,000 tokens, at once"
    )
    with report.row(title) as row, serving("stream", ENGINE=engine, **SETTINGS) as server:
        with ThreadPoolExecutor(4) as pool:
            requests = [clients.largest_request(0), long_prompt(0), clients.largest_request(1), long_prompt(1)]
            requests = requests[: scale.large_requests]
            for error in pool.map(lambda prompts: clients.take_part(server.grpc_url, prompts, scale.steps), requests):
                row.done += 1
                row.lost += [error] if error else []
        peak = watch.peak_mb(server)
        row.measured = f"peak {peak:,.0f} MB"
        assert peak < PEAK_MB


def long_prompt(number: int) -> list[str]:
    """Return one prompt of about 8,031 tokens with a unique beginning."""
    return [f"{number} " + "word " * 7998]


# OpenVINO's own limits for its kernel caches, which engines/device.py lowers.
UNLIMITED = {"OV_CONFIG": ov_config(CPU_RUNTIME_CACHE_CAPACITY=5000), "ONEDNN_PRIMITIVE_CACHE_CAPACITY": 1024}


def test_prompts_of_many_lengths(serving, report):
    """By default, OpenVINO would keep kernels for each length. (With GenAI, the growing pool would hide the effect.)"""

    def growth(row: Row, **settings: object) -> float:
        """Memory growth in MB over thirty prompts of new lengths, after fifty others."""
        with serving("stream", MAX_NEW_TOKENS=1, **settings) as server:
            resident = []
            for lengths in (range(140, 40, -2), range(139, 79, -2)):
                for length in lengths:
                    error = clients.take_part(server.grpc_url, ["word " * length], None)
                    row.done += 1
                    row.lost += [error] if error else []
                watch.until_idle(server)
                resident.append(watch.resident_mb(server))
        return resident[1] - resident[0]

    with report.row("optimum: prompts of other lengths than any before") as row:
        unlimited, grown = growth(row, **UNLIMITED), growth(row)
        row.measured = f"memory {grown:+.0f} MB, {unlimited:+.0f} MB with OpenVINO's own limits"
        assert grown < unlimited / 2
