"""Eight clients that ask, wait and leave at random, for a long time."""

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from ovms_local.testing import RunningServer
from tests.support import clients, watch
from tests.support.ov_config import F32

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

CLIENTS = 8
MAX_NEW_TOKENS = 60
# With values of 32 bits, fewer tokens fill the cache.
SETTINGS = {
    "SEED": 11,
    "MAX_NEW_TOKENS": MAX_NEW_TOKENS,
    "KV_CACHE_GB": 1,
    "OV_CONFIG": F32,
}
WORDS = [
    "tell",
    "me",
    "why",
    "the",
    "sea",
    "sings",
    "of",
    "12",
    "ships,",
    "海",
    "knows",
    "👋🏽",
    "naïve\n",
    "<|im_end|>",
]


def test_eight_clients_get_what_they_ask_for(serving, engine, scale, report):
    seconds = 60 * scale.long_run_minutes[engine]
    title = f"{engine}: streams of {CLIENTS} clients with random prompts and lengths over {seconds / 60:g} minutes"
    with (
        report.row(title) as row,
        serving("stream", ENGINE=engine, **SETTINGS) as server,
    ):
        before = fill_pool(server) if engine == "genai" else 0
        before += len(use(server.grpc_url, 60 * scale.warm_up_minutes, seed=0))
        watch.until(lambda: len(watch.generated(server)) == before)
        watch.until_idle(server)
        warm = watch.resident_mb(server)
        asked = use(server.grpc_url, seconds, seed=1)
        row.done = len(asked)
        row.lost += [f"{prompt[:40]!r}: {answer.error}" for prompt, answer in asked if answer.error]

        # Every stream has ended, and the counts reported to clients that stayed are among those in the log.
        watch.until(lambda: len(watch.generated(server)) == before + len(asked))
        complete = [(prompt, answer) for prompt, answer in asked if answer.token_count >= 0]
        told, logged = Counter(a.token_count for _, a in complete), Counter(watch.generated(server)[before:])
        row.lost += [f"a count of {count} tokens that the log does not have" for count in (told - logged).elements()]
        assert all(0 < answer.token_count <= MAX_NEW_TOKENS for _, answer in complete)

        watch.until_idle(server)
        now = watch.resident_mb(server)
        row.measured = f"{len(complete)} to the end, memory from {warm:.0f} MB after warm-up to {now:.0f} MB"
        if engine == "optimum":  # GenAI's random generator is shared by all running requests
            sample = random.Random(3).sample(complete, min(scale.compared, len(complete)))
            assert sample
            for prompt, answer in sample:
                if clients.stream(server.grpc_url, prompt).text != answer.text:
                    row.lost.append(f"{prompt[:40]!r}: another answer than alone")
            row.measured += f", {len(sample)} answers compared with the same prompt alone"
        assert now < scale.growth * warm


def fill_pool(server: RunningServer) -> int:
    """Use all of GenAI's cache once, as its process grows until then (SECURITY.md); return the number of requests.

    One GB holds 23,300 tokens. What a request leaves in the cache stays until its place is needed.
    """
    requests = 25
    for number in range(requests):
        assert clients.take_part(server.grpc_url, [f"{number} " + "word " * 950], steps=1) is None
    return requests


def use(url: str, seconds: float, seed: int) -> list[tuple[str, clients.Answer]]:
    """Run eight clients for this time; return their requests and answers."""
    end = time.monotonic() + seconds

    def client(number: int) -> list[tuple[str, clients.Answer]]:
        chance = random.Random(CLIENTS * seed + number)
        asked = []
        while time.monotonic() < end:
            prompt = " ".join(chance.choices(WORDS, k=chance.choice([1, 5, 20, 100, 400])))
            stay = chance.choice([10_000, chance.randrange(1, MAX_NEW_TOKENS)])
            asked.append((prompt, clients.stream(url, prompt, lambda pieces, stay=stay: pieces < stay)))
        return asked

    with ThreadPoolExecutor(CLIENTS) as pool:
        return [one for asked in pool.map(client, range(CLIENTS)) for one in asked]
