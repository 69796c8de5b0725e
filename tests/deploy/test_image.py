"""The image's build steps that can be run without Docker, as in the Dockerfile."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.support import ROOT
from tests.support.packages import closure, imported_packages

IMAGE = ROOT / "deploy" / "image"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
BINDINGS = ("openvino", "openvino-tokenizers", "openvino-genai")
# The scripts that run inside the image, other than the Dockerfile's own steps.
RUN_INSIDE = [ROOT / "compose.yaml", *(ROOT / "deploy").rglob("*.yaml")]


def executable(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def printing_server(path: Path, version_text: str) -> Path:
    """Write a substitute for the server's binary whose `--version` prints this text."""
    text = path.with_name("version.txt")
    text.write_text(version_text)
    return executable(path, f'[ "$1" = --version ] && cat {text}')


def version_text(release: str) -> str:
    return (
        f"OpenVINO Model Server {release}.72cc06244\n"
        f"OpenVINO backend {release}-21367-63e31528c62-releases/2026/2\n"
        f"OpenVINO GenAI backend {release}.0-2957-1dabb8c2255\n"
        "Bazel build flags: --config=mp_on_py_on\n"
    )


def run_release_script(folder: Path, ovms: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(IMAGE / "openvino_release.py"), str(ovms)]
    command += [str(folder / "constraints.txt"), str(folder / "metadata")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["", ".dev20260301"])
@pytest.mark.parametrize("release", ["2026.2.0", "2026.2.1", "2030.10"])
def test_pins_are_the_servers_release(tmp_path: Path, release: str, suffix: str) -> None:
    result = run_release_script(tmp_path, printing_server(tmp_path / "ovms", version_text(release + suffix)))
    assert result.returncode == 0, result.stderr
    pins = (tmp_path / "constraints.txt").read_text().splitlines()[1:]
    assert pins == [f"{name}=={release}" for name in BINDINGS]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("OpenVINO Model Server 2026.1\nOpenVINO backend 63e31528c62a\n", "prints no OpenVINO release"),
        ("", "prints no OpenVINO release"),
        (version_text("2025.4.1"), "The base image has OpenVINO 2025.4.1; optimum-intel needs 2026.0 or newer."),
    ],
)
def test_base_image_that_cannot_be_used(tmp_path: Path, text: str, sentence: str) -> None:
    result = run_release_script(tmp_path, printing_server(tmp_path / "ovms", text))
    assert result.returncode == 1
    assert sentence in result.stderr
    assert "--build-arg BASE_IMAGE=" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "constraints.txt").exists()


def test_oldest_release_is_what_optimum_intel_requires() -> None:
    needed = next(line for line in requires("optimum-intel") if re.match(r"openvino\b(?!-)", line))
    oldest = re.search(r"OLDEST_RELEASE = \((\d+), (\d+)\)", (IMAGE / "openvino_release.py").read_text())
    assert needed == f"openvino>={oldest[1]}.{oldest[2]}"


@pytest.mark.slow
def test_base_image_without_the_server(tmp_path: Path) -> None:
    result = run_release_script(tmp_path, tmp_path / "ovms")
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr


class Base:
    """Create a base image's /ovms in a folder: the server's binary, and the bindings' metadata as in the image."""

    def __init__(self, folder: Path, release: str, *, named: str, requires_openvino: str, redhat: bool = False) -> None:
        self.folder = folder
        lines = {
            "openvino": "",
            "openvino_tokenizers": f"Requires-Python: >=3.9\nRequires-Dist: openvino~={requires_openvino}\n",
            "openvino_genai": f"Requires-Python: >=3.9\nRequires-Dist: openvino-genai~={requires_openvino}\n",
        }
        for name, line in lines.items():
            # in the Red Hat image, openvino's is in a folder named for another version
            version = "4" if redhat and name == "openvino" else named
            metadata = folder / "ovms" / "lib" / "python" / f"{name}-{version}.dist-info" / "METADATA"
            metadata.parent.mkdir(parents=True)
            metadata.write_text(f"Metadata-Version: 1.0\nName: {name.replace('_', '-')}\nVersion: {named}\n{line}")
        (folder / "ovms" / "bin").mkdir()
        printing_server(folder / "ovms" / "bin" / "ovms", version_text(release))

    def packages_that_pip_would_install(self, python: Path) -> set[str]:
        """Run the Dockerfile's steps for the requirements, with pip as a dry run; return the names of the packages."""
        work = self.folder / "text_generation"
        work.mkdir()
        for copied in ("requirements.txt", "deploy/image/openvino_release.py"):
            (work / Path(copied).name).write_text((ROOT / copied).read_text())
        commands = self.folder / "bin"
        commands.mkdir()
        executable(commands / "python3.12", f'exec {python} "$@"')
        environment = {
            **os.environ,
            "PATH": f"{commands}:{os.environ['PATH']}",
            "PYTHONPATH": f"{self.folder}/ovms/lib/python:{self.folder}/ovms/python_deps",
            "TORCH_INDEX": "",
            "PIP_DRY_RUN": "1",
            "PIP_REPORT": str(self.folder / "report.json"),
        }
        for step in re.findall(r"^RUN ((?:.*\\\n)*.*)", DOCKERFILE, re.MULTILINE):
            if "openvino_release" in step or "requirements.txt" in step:
                step = step.replace("/ovms/bin", f"{self.folder}/ovms/bin")
                result = subprocess.run(["sh", "-euc", step], cwd=work, env=environment, capture_output=True, text=True)
                assert result.returncode == 0, result.stdout + result.stderr
        report = json.loads((self.folder / "report.json").read_text())
        return {package["metadata"]["name"].lower() for package in report["install"]}


BASES = {
    "X.Y.0": {"release": "2026.2.0", "named": "2026.2", "requires_openvino": "2026.2.0"},
    "X.Y.1": {"release": "2026.2.1", "named": "2026.2", "requires_openvino": "2026.2.0"},
    # as in 2025.4.1: a requirement that the base's own openvino does not meet
    "X.Y.1 requiring it": {"release": "2026.4.1", "named": "2026.4", "requires_openvino": "2026.4.1"},
    "Red Hat": {"release": "2026.2.1", "named": "2026.2", "requires_openvino": "2026.2.0", "redhat": True},
    "nightly": {"release": "2026.5.0.dev20261101", "named": "2026.5", "requires_openvino": "2026.5.0"},
    "nightly by name": {
        "release": "2026.5.0.dev20261101",
        "named": "2026.5.0.dev20261101",
        "requires_openvino": "2026.5.0",
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("base", BASES)
def test_pip_installs_nothing_over_the_bindings_of_the_base(tmp_path: Path, base: str) -> None:
    """In this environment, which has everything else, only the bindings are left to install, or nothing."""
    names = Base(tmp_path, **BASES[base]).packages_that_pip_would_install(Path(sys.executable))
    assert names.isdisjoint({*BINDINGS})


@pytest.mark.slow
def test_pip_installs_everything_else(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    names = Base(tmp_path, **BASES["X.Y.1"]).packages_that_pip_would_install(python)
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    required = {re.match(r"[\w-]+", line)[0].lower() for line in lines if line[:1].isalpha()}
    assert {name.replace("_", "-") for name in names} >= {name.replace("_", "-") for name in required - {*BINDINGS}}
    assert names.isdisjoint({*BINDINGS})


# The names of pip in a base's package manager, and the commands that each package provides.
PACKAGES = {
    "apt-get": {"python3-pip": ["python3", "python3.12"]},
    "microdnf": {"python3-pip": ["python3", "python3.9"], "python3.12-pip": ["python3.12"]},
    "dnf": {"python3-pip": ["python3", "python3.9"], "python3.12-pip": ["python3.12"]},
}


def install_pip(folder: Path, packages: dict[str, dict[str, list[str]]]) -> tuple[subprocess.CompletedProcess, Path]:
    """Run install_pip.sh with only these substitute package managers; return the result and the folder of commands."""
    commands = folder / "bin"
    commands.mkdir()
    for manager, known in packages.items():
        cases = "".join(
            f"{package}) {' && '.join(f'make {command}' for command in installed)};;\n"
            for package, installed in known.items()
        )
        executable(
            commands / manager,
            f'make() {{ echo "#!/bin/sh" >{commands}/$1; /bin/chmod +x {commands}/$1; }}\n'
            f'echo {manager} "$@"\n[ "$1" = install ] || exit 0\nfor name; do :; done\n'
            f'case $name in\n{cases}*) echo "no package $name"; exit 1;;\nesac',
        )
    executable(commands / "rm", 'echo rm "$@"')  # do not touch this machine's lists
    script = ["/bin/sh", str(IMAGE / "install_pip.sh")]
    result = subprocess.run(script, env={"PATH": str(commands)}, capture_output=True, text=True, check=False)
    return result, commands


@pytest.mark.slow
@pytest.mark.parametrize("managers", [["apt-get"], ["microdnf"], ["dnf"], ["microdnf", "dnf"]])
def test_every_python_command_is_there_on_every_base(tmp_path: Path, managers: list[str]) -> None:
    result, commands = install_pip(tmp_path, {name: PACKAGES[name] for name in managers})
    assert result.returncode == 0, result.stderr
    assert "rm -rf /var/lib/apt/lists/" in result.stdout or f"{managers[0]} clean all" in result.stdout

    steps = re.findall(r"^RUN (?:.*\\\n)*.*", DOCKERFILE, re.MULTILINE)
    makefile = [line for line in (ROOT / "Makefile").read_text().splitlines() if "exec -T" in line]
    texts = [*steps, *makefile, *(file.read_text() for file in RUN_INSIDE)]
    called = {name for text in texts for name in re.findall(r'(?<![\w./-])python[\d.]*(?=[", ])', text)}
    assert called
    assert all((commands / name).exists() for name in called), called


@pytest.mark.slow
@pytest.mark.parametrize("packages", [{}, {"apt-get": {"python3-pip": ["python3", "python3.10"]}}])
def test_base_without_a_python_that_can_be_used(tmp_path: Path, packages: dict) -> None:
    result, _ = install_pip(tmp_path, packages)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("error: the base image")
    assert "BASE_IMAGE" in result.stderr


@pytest.mark.slow
def test_entry_point_lets_the_server_open_as_many_files_as_the_system_does(tmp_path: Path) -> None:
    server = executable(tmp_path / "ovms", 'ulimit -S -n; for argument; do echo "$argument"; done')
    entry_point = json.loads(re.search(r"^ENTRYPOINT (.*)", DOCKERFILE, re.MULTILINE)[1])
    command = [part.replace("/ovms/bin/ovms", str(server)) for part in entry_point]
    command = ["prlimit", "--nofile=1024:4096", *command, "--config_path", "/a folder/config.json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout.splitlines() == ["4096", "--config_path", "/a folder/config.json"]


def test_latest_py_lacks_only_what_its_lines_install() -> None:
    """The packages in that image, together with those installed as documented, include all imports of a servable."""
    line = re.search(r"--target packages \. (.+)", (ROOT / "deploy" / "README.md").read_text())
    installed = line[1].split()
    requirements = (ROOT / "requirements.txt").read_text()
    assert all(requirement in requirements for requirement in installed)
    has = closure("optimum-intel", "nncf", "tritonclient", *BINDINGS, *installed)
    files = [*(ROOT / "text_generation").glob("*.py"), *(ROOT / "text_generation" / "serve").rglob("*.py")]
    packages = imported_packages(files) - {"text_generation", "pyovms"}
    providers = packages_distributions()
    lacking = {name for name in packages if has.isdisjoint(map(canonicalize_name, providers[name]))}
    assert {"pydantic_settings", "prometheus_client"} <= packages
    assert not lacking


def test_everything_that_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    copies = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY")]
    for source in (source for sources in copies for source in sources):
        assert (ROOT / source).exists(), source
        assert any(source == rule or source.startswith(f"{rule}/") for rule in kept), source


@pytest.mark.slow
def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    result = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
