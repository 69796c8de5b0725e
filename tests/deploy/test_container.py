"""The container's environment without Docker: the demo's arguments, mounts, user and variables, with the real model.

ovms_local replaces the server's binary; everything else is as in the image.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest
import yaml

from ovms_local.testing import READY
from tests.support import ROOT, log_lines, watch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("setpriv"),
        reason="needs root, unshare and setpriv to make a mount namespace with another user in it",
    ),
]

OVMS_UID = 5000
CURL_BODY = """{"inputs":[{"name" : "pre_prompt", "shape" : [1], "datatype" : "BYTES",
                            "data" : ["What is the theory of relativity?"]}]}"""


CHAT_BODY = json.dumps(
    {
        "inputs": [
            {
                "name": "request",
                "shape": [1],
                "datatype": "BYTES",
                "data": [
                    '{"messages": [{"role": "user", "content": "What is the capital of Japan?"}], "temperature": 0}'
                ],
            }
        ]
    }
)
ENTRY_POINT = json.loads(re.search(r"^ENTRYPOINT (.*)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[1])


def image_environment() -> dict[str, str]:
    """The variables set by the Dockerfile's ENV."""
    env = re.search(r"^ENV ((?:.*\\\n)*.*)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[1]
    return dict(pair.split("=", 1) for pair in env.replace("\\\n", " ").split())


@dataclass(frozen=True, slots=True)
class Image:
    """The files that the image adds to its base, on this machine: {path inside: path outside}."""

    files: dict[str, str]
    python: Path

    def command(
        self,
        folder: Path,
        *command: str,
        mounts: Mapping[str, str] = MappingProxyType({}),
        env: Mapping[str, str] = MappingProxyType({}),
        uid: int = OVMS_UID,
    ) -> list[str]:
        """Return the command line to run `command` inside, as this user, with additional `mounts` and `env`."""
        environment = image_environment() | {"PATH": f"{self.python.parent}:/usr/bin:/bin", "PYTHONUNBUFFERED": "1"}
        (folder / "root").mkdir()
        world = {
            "root": str(folder / "root"),
            "read_only": {**self.files, **mounts},
            "environment": {**environment, **env},
            "uid": uid,
            "command": command,
        }
        (folder / "world.json").write_text(json.dumps(world))
        script = ROOT / "tests" / "support" / "container_world.py"
        unshare = ["unshare", "--mount", "--net", "--propagation", "private"]
        return [*unshare, sys.executable, str(script), str(folder / "world.json")]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """text_generation installed as in the Dockerfile, with the dependencies of this environment."""
    folder = tmp_path_factory.mktemp("image")
    source, environment, stand_in = folder / "source", folder / "venv", folder / "ovms"
    shutil.copytree(ROOT / "text_generation", source / "text_generation")
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python3"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    packages = sysconfig.get_path("purelib")
    (site / "dependencies.pth").write_text(packages)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(source)]
    subprocess.run(pip, check=True)

    stand_in.mkdir()
    if sys.version_info[:2] != (3, 12):  # this machine's Python with the image's name
        python.with_name("python3.12").symlink_to(python.name)
    (stand_in / "ovms").write_text('#!/bin/sh\nexec python3.12 -m ovms_local "$@"\n')
    (stand_in / "ovms").chmod(0o755)
    (stand_in / "pyovms.py").write_text("from ovms_local.pyovms import *\n")
    (stand_in / "passwd").write_text(f"root:x:0:0::/root:/bin/sh\novms:x:{OVMS_UID}:{OVMS_UID}::/home/ovms:/bin/sh\n")
    files = {
        "/etc/passwd": str(stand_in / "passwd"),
        str(environment): str(environment),
        sys.base_prefix: sys.base_prefix,
        packages: packages,
        "/ovms/bin/ovms": str(stand_in / "ovms"),
        "/ovms/lib/python/ovms_local": str(ROOT / "ovms_local"),
        "/ovms/lib/python/pyovms.py": str(stand_in / "pyovms.py"),
        "/opt/text_generation/deploy/image": str(ROOT / "deploy" / "image"),
    }
    return Image(files, python)


@dataclass(frozen=True, slots=True)
class Container:
    process: subprocess.Popen
    uid: int

    def from_host(self, *command: str) -> subprocess.CompletedProcess:
        """Run a client on this machine that can reach the container's ports as if they were published."""
        network = ["nsenter", f"--target={self.process.pid}", "--net"]
        return subprocess.run([*network, *command], capture_output=True, text=True, check=False, timeout=120)

    def execute(self, *command: str) -> subprocess.CompletedProcess:
        """Like `docker exec`: with the container's files, network, user and environment."""
        enter = ["nsenter", f"--target={self.process.pid}", "--net", "--mount", "--root", "--wd"]
        enter += ["--setuid", str(self.uid), "--setgid", str(self.uid)]
        environ = Path(f"/proc/{self.process.pid}/environ").read_bytes().decode().rstrip("\0").split("\0")
        environment = dict(pair.split("=", 1) for pair in environ)
        return subprocess.run([*enter, *command], env=environment, capture_output=True, text=True, check=False)


@contextlib.contextmanager
def docker_run(
    image: Image, folder: Path, volumes: tuple[str, Path], *arguments: str, env: Mapping[str, str], uid: int = OVMS_UID
) -> Iterator[Container]:
    """Like `docker run` with a servable and a model as read-only `volumes`; yields when it is ready."""
    servable, model = volumes
    mounts = {"/workspace": str(ROOT / servable), "/model": str(model)}
    env = {"SELECTED_MODEL": "smollm2-135m-instruct", "MAX_NEW_TOKENS": "24", **env}
    command = image.command(folder, *ENTRY_POINT, *arguments, mounts=mounts, env=env, uid=uid)
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        watch.until(lambda: READY in log.read_text(), process=process)
        assert log_lines.graph_is("ready", "python_model") in log.read_text()
        yield Container(process, uid)
    finally:
        process.kill()
        process.wait()
        print(log.read_text())  # pytest shows it if a test fails


def test_unary_and_the_process_itself(image: Image, tmp_path: Path, int8_model: Path) -> None:
    arguments = ("--config_path", "/workspace/config.json", "--port", "9000")
    with docker_run(image, tmp_path, ("servable_unary", int8_model), *arguments, env={}) as container:
        ask = [sys.executable, str(ROOT / "client_unary.py"), "--url", "localhost:9000"]
        answer = container.from_host(*ask, "--prompt", "What is the capital of Japan?")
        assert answer.returncode == 0, answer.stderr
        assert answer.stdout.startswith("Question:\nWhat is the capital of Japan?\n\nCompletion:\n")

        status = Path(f"/proc/{container.process.pid}/status").read_text()
        assert f"Uid:\t{OVMS_UID}\t{OVMS_UID}\t{OVMS_UID}\t{OVMS_UID}" in status
        assert "CapEff:\t0000000000000000" in status
        assert b"\0HOME=" not in b"\0" + Path(f"/proc/{container.process.pid}/environ").read_bytes()
        for folder in ("/workspace", "/model", "/"):
            assert container.execute("touch", f"{folder}/x").returncode != 0
        where = container.execute("python3.12", "-c", "import text_generation; print(text_generation.__file__)")
        assert where.stdout.startswith(str(image.python.parents[1])), "not the installed package"


def test_stream(image: Image, tmp_path: Path, int8_model: Path) -> None:
    arguments = ("--config_path", "/workspace/config.json", "--port", "9000")
    as_in_kubernetes = {"ENGINE": "genai", "KV_CACHE_GB": "1", "OV_CONFIG": '{"INFERENCE_NUM_THREADS": 2}'}
    volumes = ("servable_stream", int8_model)
    with docker_run(image, tmp_path, volumes, *arguments, env=as_in_kubernetes) as container:
        ask = [sys.executable, str(ROOT / "client_stream.py"), "--url", "localhost:9000"]
        answer = container.from_host(*ask, "-p", "What is the capital of Japan?", "-p", "Who is Albert Einstein?")
        assert answer.returncode == 0, answer.stderr
        assert "==== Prompt: Who is Albert Einstein? ====" in answer.stdout
        assert "\nEND\n" in answer.stdout


def test_curl_and_the_health_check_of_compose(image: Image, tmp_path: Path, int8_model: Path) -> None:
    """One server with all servables. Compose mounts their folders, but here the whole repository is at /workspace."""
    server = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["server"]
    health_check = server["healthcheck"]["test"][1:]
    # a user without an entry in /etc/passwd, as with `docker run --user` and on OpenShift, needs a HOME
    somebody = {"env": {"HOME": "/tmp", "OV_CONFIG": '{"INFERENCE_NUM_THREADS": 2}'}, "uid": 12345}
    with docker_run(image, tmp_path, (".", int8_model), *server["command"], **somebody) as container:
        curl = ["curl", "--silent", "--header", "Content-Type: application/json", "--data", CURL_BODY]
        answer = container.from_host(*curl, "localhost:8000/v2/models/python_model/infer")
        outputs = {output["name"]: output for output in json.loads(answer.stdout)["outputs"]}
        assert outputs["completion"]["datatype"] == "BYTES"
        assert outputs["completion"]["data"][0]
        assert 0 < outputs["token_count"]["data"][0] <= 24

        chat = ["curl", "--silent", "--data", CHAT_BODY, "localhost:8000/v2/models/chat/infer"]
        outputs = {
            output["name"]: output["data"] for output in json.loads(container.from_host(*chat).stdout)["outputs"]
        }
        assert "Tokyo" in outputs["completion"][0]

        proxy = ("env", "http_proxy=http://127.0.0.1:9")  # as Docker sets it where its configuration has a proxy
        assert container.execute(*proxy, *health_check).returncode == 0
        assert container.execute(*health_check[:-1]).returncode == 0
        another = container.execute(*health_check[:-1], "another_model")
        assert another.returncode == 1
        assert another.stderr.startswith("error: localhost:9000: ")
        assert len(another.stderr.splitlines()) == 1


def test_import_check_that_ends_the_build(image: Image, tmp_path: Path) -> None:
    check = ("python3.12", "/opt/text_generation/deploy/image/check_imports.py")
    whole = tmp_path / "whole"
    whole.mkdir()
    result = subprocess.run(image.command(whole, *check), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr

    broken = tmp_path / "broken"
    broken.mkdir()
    without_python = Image({k: v for k, v in image.files.items() if not k.endswith("pyovms.py")}, image.python)
    result = subprocess.run(without_python.command(broken, *check), capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "error: pyovms cannot be imported in this image" in result.stderr
    assert "Traceback" not in result.stderr
