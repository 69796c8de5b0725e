"""The number of repetitions in the stress tests."""

import os
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Scale:
    """Counts of one run of the stress tests.

    `steps` is the number of steps of a large answer to wait for (None: all). The long run's minutes are per engine and
    follow a warm-up; `growth` is the allowed factor of memory growth, and `compared` the number of answers that are
    requested again, alone. Times are asserted only with `times`, when no other test runs.
    """

    leaving_clients: int
    overloads: int
    hostile_requests: int
    large_requests: int
    steps: int | None
    warm_up_minutes: float
    long_run_minutes: dict[str, float]
    growth: float
    compared: int
    times: bool


SHORT = Scale(
    leaving_clients=3,
    overloads=1,
    hostile_requests=300,
    large_requests=1,
    steps=3,
    warm_up_minutes=0.02,
    long_run_minutes={"optimum": 0.1, "genai": 0.1},
    growth=1.15,
    compared=5,
    times=False,
)
LONG = Scale(
    leaving_clients=200,
    overloads=10,
    hostile_requests=20_000,
    large_requests=4,
    steps=None,
    warm_up_minutes=5,
    long_run_minutes={"optimum": 30, "genai": 5},
    growth=1.05,
    compared=20,
    times=True,
)


def from_environment() -> Scale:
    """Return LONG if STRESS is `long`, else SHORT; STRESS_MINUTES sets the minutes of the long run for both engines."""
    scale = LONG if os.environ.get("STRESS") == "long" else SHORT
    if minutes := os.environ.get("STRESS_MINUTES"):
        scale = replace(scale, long_run_minutes=dict.fromkeys(scale.long_run_minutes, float(minutes)))
    return scale
