"""compose.yaml: checked with the compose specification's schema, and for the properties that users rely on."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support import ROOT

COMPOSE = ROOT / "compose.yaml"
SERVICES = yaml.safe_load(COMPOSE.read_text())["services"]
SERVERS = ["server", "server-gpu"]


def with_defaults(text: str) -> str:
    """Return the text as compose reads it if none of its variables is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


@pytest.mark.slow
@pytest.mark.parametrize("read", [str, with_defaults], ids=["as written", "with defaults"])
def test_schema_of_the_compose_specification(tmp_path, read) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(read(COMPOSE.read_text()))
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    result = subprocess.run(check, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_every_variable_has_a_default_and_is_documented() -> None:
    variables = re.findall(r"\$\{(\w+)(:-)?", COMPOSE.read_text())
    readme = (ROOT / "deploy" / "README.md").read_text()
    for name, default in variables:
        assert default, name
        assert f"`{name}`" in readme, name


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["mem_limit"]
    assert service["restart"] == "unless-stopped"
    assert service["cap_drop"] == ["ALL"]
    assert all("127.0.0.1" in port for port in service["ports"])


@pytest.mark.parametrize("name", SERVERS)
def test_server_is_watched_and_reads_what_it_serves(name: str) -> None:
    service = SERVICES[name]
    assert all(volume.endswith(":ro") for volume in service["volumes"])
    inside = {volume.rsplit(":", 2)[1] for volume in service["volumes"]}
    assert inside == {"/model", *(f"/workspace/servable_{name}" for name in ("all", "unary", "stream", "chat"))}
    assert service["healthcheck"]["test"][-2:] == ["/opt/text_generation/deploy/image/probe.py", "chat_stream"]


def test_the_page_asks_whichever_server_runs() -> None:
    page = SERVICES["page"]
    assert page["profiles"] == ["chat"]
    host, port = page["command"][page["command"].index("--url") + 1].split(":")
    for name in SERVERS:
        assert host in SERVICES[name]["networks"]["default"]["aliases"]
        assert port in SERVICES[name]["command"]
    dockerfile = (ROOT / page["build"] / "Dockerfile").read_text()
    user = int(re.search(r"^USER (\d+)$", dockerfile, re.MULTILINE)[1])
    assert user > 0
    folder = ROOT / page["build"]
    patterns = " ".join(re.findall(r"^COPY (.+) \./$", dockerfile, re.MULTILINE)).split()
    copied = {path.name for pattern in patterns for path in folder.glob(pattern)}
    assert copied == {"requirements.txt", *(path.name for path in folder.glob("*.py"))}


def test_the_gpu_is_a_profile_of_its_own() -> None:
    cpu, gpu = SERVICES["server"], SERVICES["server-gpu"]
    assert cpu["profiles"] == ["cpu"]
    assert gpu["profiles"] == ["gpu"]
    assert "devices" not in cpu
    assert gpu["devices"] == ["/dev/dri:/dev/dri"]
    assert gpu["group_add"]
    assert gpu["environment"] == {**cpu["environment"], "DEVICE": "GPU"}
    assert gpu["volumes"] == cpu["volumes"]
    assert gpu["ports"] == cpu["ports"]
    assert gpu["build"]["args"]["BASE_IMAGE"].endswith(":latest-gpu"), "the base that has the drivers"
    assert with_defaults(gpu["image"]) != with_defaults(cpu["image"]), "one would be taken for the other"


def test_the_stream_graph_of_all_servables_is_the_stream_servables_own() -> None:
    one, other = (
        [line for line in (ROOT / path).read_text().splitlines() if not line.startswith("#")]
        for path in ("servable_stream/graph.pbtxt", "servable_all/stream.pbtxt")
    )
    assert [line.replace("stream_model.py", "model.py") for line in other] == one


@pytest.mark.slow
def test_down_waits_for_running_answers(tmp_path: Path) -> None:
    """With a substitute for docker: drain.py runs in all running containers at once, and `down` comes after that."""
    docker = tmp_path / "docker"
    docker.write_text(
        f"""#!/bin/sh
        cd {tmp_path}
        case "$*" in
        *" ps "*) echo unary; echo stream ;;
        *" exec "*)
            touch $8
            for _ in $(seq 100); do [ -e unary ] && [ -e stream ] && break; sleep 0.1; done
            [ -e unary ] && [ -e stream ] || exit 1 ;;
        esac
        echo "$@" >>calls
        """
    )
    docker.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["make", "--silent", "down"], cwd=ROOT, env=environment, check=True, timeout=30)
    calls = [line.removeprefix("compose --profile cpu --profile gpu ") for line in (tmp_path / "calls").open()]
    drain = "python3.12 /opt/text_generation/deploy/image/drain.py\n"
    assert calls[0].startswith("ps ")
    assert sorted(calls[1:3]) == [f"exec -T stream {drain}", f"exec -T unary {drain}"]
    assert calls[3:] == ["--profile chat down\n"], "the page has no answers of its own to wait for"
