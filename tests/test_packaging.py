"""pyproject.toml's declarations, compared with the imports and the pins, and tested with a wheel."""

import re
import shutil
import subprocess
import sys
import tomllib
import urllib.request
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ovms_local.testing import READY, RunningServer, free_port
from tests.support.packages import closure, imported_packages

ROOT = Path(__file__).parent.parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
SHARED = [*(ROOT / "text_generation").glob("*.py")]
SOURCES = {
    "prepare": [*SHARED, *(ROOT / "text_generation/prepare").rglob("*.py")],
    "serve": [*SHARED, *(ROOT / "text_generation/serve").rglob("*.py")],
    "local": [*(ROOT / "ovms_local").rglob("*.py")],
}


def requirements(name: str) -> dict[str, Requirement]:
    lines = re.findall(r"^[\w-][^#\n]*", (ROOT / name).read_text(), re.MULTILINE)
    found = [Requirement(line) for line in lines if not line.startswith("-")]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


@pytest.mark.parametrize("extra", SOURCES)
def test_an_extra_brings_what_its_part_imports(extra: str) -> None:
    brought = closure(*EXTRAS[extra])
    providers = packages_distributions()
    packages = imported_packages(SOURCES[extra]) - {"text_generation", "ovms_local", "pyovms"}
    lacking = {name for name in packages if brought.isdisjoint(map(canonicalize_name, providers[name]))}
    assert packages
    assert not lacking


def test_what_is_declared_is_pinned_and_nothing_else() -> None:
    pinned = requirements("requirements.txt")
    constraints = requirements("constraints.txt")
    declared = [Requirement(line) for lines in EXTRAS.values() for line in lines]
    assert {canonicalize_name(requirement.name) for requirement in declared} == set(pinned)
    assert set(constraints) <= set(pinned)
    for requirement in declared:
        name = canonicalize_name(requirement.name)
        pin = pinned[name]
        assert requirement.extras <= pin.extras
        releases = re.findall(r"==([\d.]+)", f"{pin.specifier} {constraints.get(name, '')}")
        if name == "numpy":
            assert not releases  # determined by nncf and openvino
        else:
            assert len(releases) == 1, f"{name} is not pinned once"
            assert requirement.specifier.contains(releases[0]), f"{requirement} is pinned to {releases[0]}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("text_generation", "ovms_local"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(source / "dist")]
    subprocess.run([*pip, str(source)], check=True)
    return next((source / "dist").iterdir())


@pytest.mark.slow
def test_the_wheel_holds_all_that_the_sources_read(wheel: Path) -> None:
    folders = (ROOT / "text_generation", ROOT / "ovms_local")
    files = {str(path.relative_to(ROOT)) for folder in folders for path in folder.rglob("*") if path.is_file()}
    expected = {file for file in files if "__pycache__" not in file and not file.endswith(".md")}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == expected


@pytest.mark.slow
def test_the_wheel_serves_the_example_in_an_environment_of_its_own(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pins = [f"{name}{pin.specifier}\n" for name, pin in requirements("requirements.txt").items() if pin.specifier]
    (tmp_path / "pins.txt").write_text("".join(pins))
    install = [str(environment / "bin/python"), "-m", "pip", "install", "--quiet", "--constraint", "pins.txt"]
    subprocess.run([*install, f"{wheel}[local]"], cwd=tmp_path, check=True)

    grpc_port, rest_port = free_port(), free_port()
    command = [str(environment / "bin/ovms-local"), "--config_path", str(ROOT / "examples/echo_node/config.json")]
    command += ["--port", str(grpc_port), "--rest_port", str(rest_port)]
    with (tmp_path / "log").open("w+b") as output:
        process = subprocess.Popen(command, cwd=tmp_path, env={}, stdout=output, stderr=subprocess.STDOUT)
        server = RunningServer(process, output, grpc_port, rest_port)
        try:
            server.wait_for_log(READY)
            with grpcclient.InferenceServerClient(server.grpc_url) as client:
                text = grpcclient.InferInput("text", [1], "BYTES")
                text.set_data_from_numpy(np.array(["Hello"], dtype=object))
                assert client.infer("echo", [text]).as_numpy("echo").tolist() == [b"Hello"]
            with urllib.request.urlopen(f"{server.rest_url}/v2/openapi.json", timeout=60) as response:
                assert b"openapi" in response.read()
        finally:
            assert server.stop() == 0, server.log


@pytest.mark.slow
@pytest.mark.parametrize("command", ["download-model", "compress-model"])
def test_the_wheel_has_the_model_commands(wheel: Path, tmp_path: Path, command: str) -> None:
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), str(wheel)]
    subprocess.run(install, check=True)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "bin" / command), "--help"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith(f"usage: {command} "), done.stderr
