"""The image's build steps that can be run without Docker, each as the Dockerfile runs it."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from .conftest import ROOT

IMAGE = ROOT / "deploy" / "image"


def executable(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def pin_release(folder: Path, version_text: str) -> subprocess.CompletedProcess:
    """Run the version rule with a stand-in for the server's binary that prints `version_text`."""
    (folder / "version.txt").write_text(version_text)
    ovms = executable(folder / "ovms", f'[ "$1" = --version ] && cat {folder / "version.txt"}')
    command = [sys.executable, str(IMAGE / "openvino_release.py"), str(ovms), str(folder / "constraints.txt")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def server_of_this_release() -> str:
    return (
        f"OpenVINO Model Server {version('openvino').split('-')[0]}.72cc06244\n"
        f"OpenVINO backend {version('openvino').split('-')[0]}-21367-63e31528c62-releases/2026/1\n"
        "Bazel build flags: --config=mp_on_py_on\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("genai_line", [False, True])
def test_packages_are_of_the_servers_release(tmp_path: Path, genai_line: bool) -> None:
    release, genai = version("openvino").split("-")[0], version("openvino-genai")
    line = f"OpenVINO GenAI backend {genai}-2957-1dabb8c2255\n" if genai_line else ""
    result = pin_release(tmp_path, server_of_this_release() + line)
    assert result.returncode == 0, result.stderr
    pins = [line for line in (tmp_path / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert pins == [
        f"openvino=={release}",
        f"openvino-tokenizers=={release}.*",
        f"openvino-genai=={genai if genai_line else release + '.*'}",
    ]


@pytest.mark.slow
def test_release_without_wheels_fails_with_a_sentence(tmp_path: Path) -> None:
    result = pin_release(tmp_path, "OpenVINO Model Server 2099.1.0.abc\nOpenVINO backend 2099.1.0-99999-abcdef\n")
    assert result.returncode == 1
    assert "pip finds no wheels of the base image's OpenVINO release (openvino==2099.1.0," in result.stderr
    assert "--build-arg BASE_IMAGE=" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("version_text", "sentence"),
    [
        ("OpenVINO Model Server 2026.1\nOpenVINO backend 63e31528c62a\n", "names no OpenVINO release"),
        ("", "names no OpenVINO release"),
        ("OpenVINO backend 2026.2.0.dev20260301-1-abc\n", "OpenVINO 2026.2.0.dev20260301, which is no release"),
    ],
)
def test_base_image_that_is_no_release(tmp_path: Path, version_text: str, sentence: str) -> None:
    result = pin_release(tmp_path, version_text)
    assert result.returncode == 1
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "constraints.txt").exists()


def test_base_image_without_the_server(tmp_path: Path) -> None:
    command = [sys.executable, str(IMAGE / "openvino_release.py"), str(tmp_path / "ovms"), str(tmp_path / "c.txt")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("managers", [["apt-get"], ["microdnf"], ["dnf"], ["microdnf", "dnf"], []])
def test_pip_comes_from_the_base_images_package_manager(tmp_path: Path, managers: list[str]) -> None:
    for manager in managers:
        executable(tmp_path / manager, f'echo {manager} "$@"')
    executable(tmp_path / "rm", 'echo rm "$@"')  # not this machine's lists
    result = subprocess.run(
        ["/bin/sh", str(IMAGE / "install_pip.sh")],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    if not managers:
        assert result.returncode == 1
        assert "BASE_IMAGE" in result.stderr
        return
    assert result.returncode == 0, result.stderr
    commands = [line.split() for line in result.stdout.splitlines()]
    installs = [command for command in commands if "install" in command]
    assert len(installs) == 1
    assert installs[0][0] == managers[0]
    assert installs[0][-1] == "python3-pip"
    assert (
        ["rm", "-rf", "/var/lib/apt/lists/*"] in commands
        or [managers[0], "clean", "all"] in commands
        or any(command[0] == "rm" for command in commands)
    )


def test_everything_that_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    copies = [line.split()[1:-1] for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("COPY")]
    for source in (source for sources in copies for source in sources):
        assert (ROOT / source).exists(), source
        assert any(source == rule or source.startswith(f"{rule}/") for rule in kept), source


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    result = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
