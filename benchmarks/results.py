"""The results of a benchmark run: every measurement, the goals, and the machine."""

import json
import platform
import statistics
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil

from benchmarks.workload import Run, Workload

RESULTS = Path(__file__).parent / "results"  # the default folder for results
PACKAGES = ("openvino", "openvino-genai", "optimum-intel", "transformers", "torch", "tritonclient", "grpcio", "numpy")


@dataclass(frozen=True, slots=True)
class Spread:
    """Median of the repeats, with the lowest and highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Row:
    """All repeats of one workload on one subject: throughput in tokens/s, times in milliseconds, memory in bytes.

    The times to first token and between pieces are medians and 99th percentiles over all requests of all repeats.
    `limit_share` is the throughput as a share of what memory bandwidth allows for one request at a time; None if
    several requests share a pass over the weights.
    """

    model: str
    subject: str
    workload: Workload
    repeats: list[float]
    tokens_per_s: Spread
    first_token_ms: float
    first_token_p99_ms: float
    first_token_repeats_ms: list[float]
    between_ms: float
    between_p99_ms: float
    peak_bytes: int
    limit_share: float | None

    @classmethod
    def of(cls, model: str, subject: str, runs: Sequence[Run], limit_tokens_per_s: float) -> "Row":
        """Summarize the repeats; `limit_tokens_per_s` is the bandwidth divided by the weight bytes read per step."""
        workload = runs[0].workload
        repeats = [run.tokens_per_s for run in runs]
        first = [[1000 * answer.first_token_s for answer in run.answers] for run in runs]
        between = np.concatenate([answer.gaps_s for run in runs for answer in run.answers]) * 1000
        spread = Spread.of(repeats)
        return cls(
            model,
            subject,
            workload,
            repeats,
            spread,
            float(np.median(np.concatenate(first))),
            float(np.percentile(np.concatenate(first), 99)),
            [statistics.median(own) for own in first],
            float(np.median(between)),
            float(np.percentile(between, 99)),
            max(run.peak_bytes for run in runs),
            spread.median / limit_tokens_per_s if workload.clients == 1 else None,
        )


@dataclass(frozen=True, slots=True)
class Goal:
    """A goal: a ratio or difference, computed per repeat from runs of that repeat."""

    name: str
    model: str
    target: float
    at_most: bool
    unit: str
    measured: Spread

    @property
    def reached(self) -> bool:
        """Whether the median meets the target."""
        return self.measured.median <= self.target if self.at_most else self.measured.median >= self.target


@dataclass(slots=True)
class Results:
    """Everything that one run measured."""

    arguments: list[str]
    date: str
    machine: dict[str, str]
    packages: dict[str, str]
    bandwidth_gb_s: dict[str, Spread] = field(default_factory=dict)  # by model: measured between its repeats
    weight_mb_per_token: dict[str, float] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        """Write everything as JSON."""
        goals = [asdict(goal) | {"reached": goal.reached} for goal in self.goals]
        path.write_text(json.dumps(asdict(self) | {"goals": goals}, indent=1) + "\n")


def machine() -> dict[str, str]:
    """Return the properties of the machine that affect the numbers, as far as they are known."""
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    cpu = {name.strip(): value.strip() for name, _, value in lines}
    return {
        "cpu": cpu.get("model name") or platform.processor() or "unknown",
        "instructions": instruction_set(cpu.get("flags", "").split()),
        "cores": str(psutil.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def instruction_set(flags: Collection[str]) -> str:
    """Return the instruction sets that determine the kernels for 8-bit and 4-bit weights."""
    named = {
        "AVX2": "avx2",
        "AVX-VNNI": "avx_vnni",
        "AVX-512": "avx512f",
        "AVX-512 VNNI": "avx512_vnni",
        "AMX": "amx_int8",
    }
    return ", ".join(name for name, flag in named.items() if flag in flags) or "neither AVX2 nor later"


def packages() -> dict[str, str]:
    """Return the releases of the packages involved."""
    return {name: version(name) for name in PACKAGES}
