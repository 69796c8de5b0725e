"""Servers for the stress tests, and the report of their results."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import pytest

from ovms_local.testing import RunningServer, serve
from tests.support import ROOT, stress_scale
from tests.support.ov_config import ov_config
from tests.support.stress_report import Report, Row
from text_generation.serve.settings import Settings

REPORT = Report()

Serving = Callable[..., AbstractContextManager[RunningServer]]


@pytest.fixture(scope="session")
def scale() -> stress_scale.Scale:
    return stress_scale.from_environment()


@pytest.fixture(scope="session")
def report() -> Report:
    return REPORT


def pytest_runtest_logreport(report):
    """The tests of the model commands kill them, KILLS times each."""
    if report.when == "call" and report.nodeid.endswith("test_killed"):
        row = Row(f"{report.nodeid.split('::')[0]}: SIGKILL at a random moment", int(os.environ.get("KILLS", "2")))
        row.lost += [report.longreprtext.splitlines()[-1]] if report.failed else []
        REPORT.rows.append(row)


def pytest_terminal_summary(terminalreporter):
    if REPORT.rows:
        terminalreporter.section("stress report")
        for line in REPORT.lines():
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def serving(int8_model) -> Serving:
    """serving("stream", arguments, ENGINE="genai", ...): a server with this servable and only these settings."""

    @contextmanager
    def start(servable: str, arguments: Sequence[str] = (), **settings: object) -> Iterator[RunningServer]:
        environment = dict.fromkeys(name.upper() for name in Settings.model_fields)
        environment |= {"MODEL_PATH": str(int8_model), "OV_CONFIG": ov_config()}
        environment |= {name: str(value) for name, value in settings.items()}
        with serve(ROOT / f"servable_{servable}", env=environment, args=arguments, ready_timeout=250) as server:
            yield server

    return start


@pytest.fixture(params=["optimum", "genai"])
def engine(request) -> str:
    return request.param
