"""deploy/kserve, checked with the models of KServe's own SDK and against the other deployments."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from tests.support import ROOT
from tests.support.deployment import GRACE_SECONDS
from tests.support.text import edited

FOLDER = ROOT / "deploy" / "kserve"
FILES = [FOLDER / "serving-runtime.yaml", FOLDER / "inference-service.yaml"]
# Separate from the tests' environment, since the SDK's requirements conflict with ours (psutil<6).
# The client must be generated like the SDK: from release 37 on, with pydantic.
SDK = ("kserve==0.21.0", "kubernetes==34.1.0")
NEEDED = ("certifi", "durationpy", "python-dateutil", "six", "urllib3")


@pytest.fixture(scope="module")
def sdk_environment(model_cache: Path) -> dict[str, str]:
    """A Python environment with KServe's SDK, kept per machine."""
    folder = model_cache.parent / "-".join(SDK)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            new = folder.with_name(f"{folder.name}.new")
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(new)]
            subprocess.run([*pip, *SDK, *NEEDED], check=True)
            new.rename(folder)
    os.utime(folder)
    return {**os.environ, "PYTHONPATH": str(folder)}


def check(environment: dict[str, str], *files: Path) -> subprocess.CompletedProcess:
    script = ROOT / "tests" / "support" / "kserve_check.py"
    command = [sys.executable, str(script), *map(str, files)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_models_of_the_sdk(sdk_environment: dict[str, str], tmp_path: Path) -> None:
    result = check(sdk_environment, *FILES)
    assert result.returncode == 0, result.stderr

    for file, right, wrong in (
        (FILES[0], "supportedModelFormats", "modelFormats"),
        (FILES[1], "storageUri", "storageURI"),
    ):
        misspelt = tmp_path / "misspelt.yaml"
        misspelt.write_text(edited(file.read_text(), right, wrong))
        refused = check(sdk_environment, misspelt)
        assert refused.returncode == 1
        assert wrong in refused.stderr


def test_runtime_and_service_meet() -> None:
    runtime, service = (yaml.safe_load(file.read_text()) for file in FILES)
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in {known["name"] for known in runtime["spec"]["supportedModelFormats"]}
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    server = runtime["spec"]["containers"][0]
    assert server["name"] == "kserve-container"
    assert {"name": "MODEL_PATH", "value": "/mnt/models"} in server["env"]
    assert server["securityContext"]["runAsNonRoot"] is True
    deployment = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "base" / "deployment.yaml").read_text())
    [same_server] = deployment["spec"]["template"]["spec"]["containers"]
    for key in ("startupProbe", "readinessProbe", "livenessProbe", "lifecycle"):
        assert server[key] == same_server[key]
    assert service["spec"]["predictor"]["terminationGracePeriodSeconds"] >= GRACE_SECONDS
