"""demo.sh as run by a user, with existing models."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ovms_local.testing import free_port
from tests.support import watch

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


@pytest.fixture
def checkout(tmp_path, fp32_model, int8_model) -> Path:
    """A copy of the files that the demo uses, next to finished models."""
    for name in ("demo.sh", "ovms_local", "text_generation", "servable_unary", "servable_stream", "servable_chat"):
        (tmp_path / name).symlink_to(ROOT / name)
    for script in ROOT.glob("client_*.py"):
        (tmp_path / script.name).symlink_to(script)
    (tmp_path / "demo.sh").unlink()
    (tmp_path / "demo.sh").write_bytes((ROOT / "demo.sh").read_bytes())
    for model in (fp32_model, int8_model):
        (tmp_path / model.name).symlink_to(model)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def test_the_demo_runs_through_and_leaves_nothing_running(checkout):
    # No proxy is used for this machine.
    nobody = {name: f"http://127.0.0.1:{free_port()}" for name in ("http_proxy", "https_proxy", "all_proxy")}
    brief = os.environ | nobody | {"MAX_NEW_TOKENS": "60", "no_proxy": ""}
    demo = subprocess.run(["bash", "demo.sh"], cwd=checkout, env=brief, capture_output=True, text=True, timeout=240)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    commands = re.findall(r"^\$ (.+)", demo.stdout, re.MULTILINE)
    programs = [re.search(r"ovms_local|client_[a-z]+|curl", command)[0] for command in commands]
    assert programs == [
        *["ovms_local", "client_unary", "client_unary", "curl"],
        *["ovms_local", "client_stream", "client_stream"],
        *["ovms_local", "client_chat"],
    ]
    assert demo.stdout.count("Completion:\n") == 1
    assert demo.stdout.count("==== Prompt: Who is Albert Einstein? ====\n") == 2
    assert demo.stdout.count('"datatype": "BYTES"') == 1
    assert demo.stdout.count("END\n\n\nNumber of tokens  ") == 2
    conversation = demo.stdout.splitlines()[-2:]
    assert "Tokyo" in conversation[0]
    assert conversation[1]
    assert not servers_in(checkout)


def test_a_graph_that_is_not_loaded_ends_the_demo_with_the_server_s_line(checkout):
    wrong = os.environ | {"MODEL": "org/smollm2-135m-instruct", "SEED": "-1"}  # the folder has no org/
    demo = subprocess.run(["bash", "demo.sh"], cwd=checkout, env=wrong, capture_output=True, text=True, timeout=120)
    assert demo.returncode == 1
    head, line = demo.stderr.splitlines()
    assert head == "the server could not load the model:"
    assert "SEED is '-1'" in line
    assert not servers_in(checkout)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_demo_and_its_server(checkout, number, code):
    demo = subprocess.Popen(["bash", "demo.sh"], cwd=checkout, stdout=subprocess.DEVNULL)
    watch.until(lambda: any("ovms_local" in command for command in servers_in(checkout)))
    demo.send_signal(number)
    assert demo.wait(60) == code
    assert not servers_in(checkout)


def servers_in(folder: Path) -> list[str]:
    """Return the processes that are still running in this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder:
                found.append((process / "cmdline").read_text())
        except OSError:  # ended, or another user's
            continue
    return found
