"""Sends requests at a given rate, whether or not earlier ones are answered, to our server and to llama-server.

The rate is raised until the 99th percentile of the time to first token exceeds the limit.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks import llama_server, models, table
from benchmarks.results import RESULTS, machine, packages
from benchmarks.subjects import clients, question_ids, served
from benchmarks.workload import Answer
from text_generation.serve.prompts import PromptEncoder

PROMPTS: list[str] = json.loads((Path(__file__).parent / "prompts.json").read_text())
RATES = (0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)
SECONDS = 30
LIMIT_S = 2.0
NEW_TOKENS = 128  # at most; the model may end an answer earlier
SEED = 15
HEADER = ("subject", "requests/s", "in time/s", "first token ms", "p99", "per token ms", "p99", "tokens/s")


@dataclass(frozen=True, slots=True)
class Load:
    """The results of one rate: times in milliseconds, `goodput` in requests/s within the limit."""

    subject: str
    rate: float
    requests: int
    goodput: float
    first_token_ms: float
    first_token_p99_ms: float
    per_token_ms: float
    per_token_p99_ms: float
    tokens_per_s: float

    @classmethod
    def of(cls, subject: str, rate: float, answers: list[Answer], token_counts: list[int]) -> "Load":
        """Summarize the answers, over the time from the first request to the end of the last."""
        seconds = max(answer.ended for answer in answers) - min(answer.sent for answer in answers)
        first = np.array([(answer.arrivals or [answer.ended])[0] - answer.sent for answer in answers])
        per_token = [
            (answer.ended - answer.arrivals[0]) / (count - 1)
            for answer, count in zip(answers, token_counts, strict=True)
            if answer.arrivals and count > 1
        ]
        return cls(
            subject,
            rate,
            len(answers),
            float(np.sum(first < LIMIT_S)) / seconds,
            *(1000 * float(np.percentile(first, share)) for share in (50, 99)),
            *(1000 * float(np.percentile(per_token, share)) for share in (50, 99)),
            sum(token_counts) / seconds,
        )

    @property
    def kept(self) -> bool:
        """Whether the limit was kept."""
        return self.first_token_p99_ms < 1000 * LIMIT_S


def arrivals(rate: float) -> tuple[list[float], list[str]]:
    """Return the times of requests within SECONDS, and their prompts, which are the same for all subjects."""
    random = np.random.default_rng(SEED)
    times = list(itertools.takewhile(lambda at: at < SECONDS, itertools.accumulate(_gaps(random, rate))))
    order = random.permutation(len(PROMPTS))
    return times, [PROMPTS[order[place % len(PROMPTS)]] for place in range(len(times))]


def _gaps(random: np.random.Generator, rate: float) -> Iterator[float]:
    while True:
        yield random.exponential(1 / rate)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.open_loop", description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the results")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="requests a second, from low to high")
    arguments = parser.parse_args()
    program = llama_server.binary(models.CACHE)
    ours = {f"server, genai, {precision}": models.smollm2(precision) for precision in ("INT8", "INT4")}
    encoder = PromptEncoder.load(models.smollm2("INT8").folder)
    with ExitStack() as stack:
        (client,) = stack.enter_context(clients(1))
        subjects: dict[str, tuple[str, str, Callable[[str], Any]]] = {}  # address, kind of request, request
        for name, model in ours.items():
            settings = {"PREFIX_CACHING": "false", "MAX_CONCURRENT_REQUESTS": str(llama_server.SLOTS)}
            server = stack.enter_context(served("genai", "stream", model.folder, NEW_TOKENS, [client], **settings))
            subjects[name] = server.url, "stream", lambda prompt: [prompt]
        llama = stack.enter_context(llama_server.served(program, models.smollm2_gguf(), [client], encoder))
        subjects["llama-server"] = (
            llama.url,
            "completion",
            lambda prompt: llama_server.body(question_ids(encoder, prompt), NEW_TOKENS, ignore_eos=False),
        )

        def load(name: str, rate: float) -> Load:
            url, kind, request = subjects[name]
            times, prompts = arrivals(rate)
            requests = [request(prompt) for prompt in prompts]
            begin = time.monotonic() + 0.5
            client.send({"url": url, "kind": kind, "requests": requests, "at": [begin + at for at in times]})
            reply = client.receive()
            return Load.of(name, rate, [Answer(**answer) for answer in reply["answers"]], reply["token_counts"])

        for url, kind, request in subjects.values():  # warm-up
            client.send({"url": url, "kind": kind, "requests": [request(prompt) for prompt in PROMPTS[:4]]})
            client.receive()
        measured: list[Load] = []
        left = list(subjects)
        for rate in tqdm(arguments.rates, "rates", disable=None):
            loads = [load(name, rate) for name in left]
            measured += loads
            left = [one.subject for one in loads if one.kept]
            save(measured, list(subjects), arguments.output)
            if not left:
                break
    print((arguments.output / "open_loop.md").read_text())


def save(measured: list[Load], subjects: list[str], folder: Path) -> None:
    """Write the results so far."""
    best = {
        name: max((one.rate for one in measured if one.subject == name and one.kept), default=0.0) for name in subjects
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_loop.md").write_text(render(measured, best))
    content = {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "machine": machine(),
        "packages": packages(),
        "seconds": SECONDS,
        "limit_s": LIMIT_S,
        "highest_rate": best,
        "loads": [asdict(one) for one in measured],
    }
    (folder / "open_loop.json").write_text(json.dumps(content, indent=1) + "\n")


def render(measured: list[Load], best: dict[str, float]) -> str:
    """Format a table of all loads, by subject, and one of the highest rates."""
    rows = [
        (
            one.subject,
            f"{one.rate:g}",
            f"{one.goodput:.2f}",
            f"{one.first_token_ms:.0f}",
            f"{one.first_token_p99_ms:.0f}",
            f"{one.per_token_ms:.1f}",
            f"{one.per_token_p99_ms:.1f}",
            f"{one.tokens_per_s:.0f}",
        )
        for name in best
        for one in measured
        if one.subject == name
    ]
    highest = [(name, f"{rate:g}") for name, rate in best.items()]
    title = f"highest requests/s with p99 of the first token under {LIMIT_S:g} s"
    return table.table(HEADER, rows) + "\n" + table.table(("subject", title), highest)


if __name__ == "__main__":
    main()
