"""deploy/kubernetes, rendered by kustomize for each model: checked with Kubernetes' schemas and for consistency."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.support import ROOT
from tests.support.deployment import GRACE_SECONDS
from text_generation.prepare.models import MODELS

FOLDER = ROOT / "deploy" / "kubernetes"
# `labels` and `patches` need kustomize 4.1, which kubectl includes from 1.22 on.
OLDEST_KUSTOMIZE = (4, 1)


def kustomize() -> list[str]:
    """The command that renders a folder; skips the test if this machine has none that is new enough."""
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    if not shutil.which("kubectl"):
        pytest.skip("neither kustomize nor kubectl is installed")
    version = subprocess.run(["kubectl", "version", "--client"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"Kustomize Version: v(\d+)\.(\d+)", version)
    if found is None or tuple(map(int, found.groups())) < OLDEST_KUSTOMIZE:
        pytest.skip("this kubectl carries a kustomize older than 4.1")
    return ["kubectl", "kustomize"]


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.slow) for name in [*MODELS, "base"]])
def rendered(request: pytest.FixtureRequest) -> dict[str, dict]:
    """Return the resources of an overlay: {"Kind/name": resource}, with the ConfigMap's name without its hash."""
    return render(FOLDER / "base" if request.param == "base" else FOLDER / "overlays" / request.param)


def render(folder: Path) -> dict[str, dict]:
    result = subprocess.run([*kustomize(), str(folder)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    resources = {f"{r['kind']}/{r['metadata']['name']}": r for r in yaml.safe_load_all(result.stdout)}
    return {re.sub(r"^(ConfigMap/model)-\w+$", r"\1", name): resource for name, resource in resources.items()}


@pytest.fixture(scope="module")
def with_chat(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """The resources of an overlay with the component `chat`."""
    folder = tmp_path_factory.mktemp("overlay")
    away = os.path.relpath(FOLDER, folder)
    (folder / "kustomization.yaml").write_text(
        f"resources: [{away}/overlays/smollm2-135m-instruct]\ncomponents: [{away}/components/chat]\n"
    )
    return render(folder)


def pod(rendered: dict[str, dict]) -> dict:
    return rendered["Deployment/llm-text-generation"]["spec"]["template"]["spec"]


def test_schemas_of_current_kubernetes(rendered: dict[str, dict]) -> None:
    for resource in rendered.values():
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
    kinds = {name.split("/")[0] for name in rendered}
    assert kinds == {
        "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "Job", "PersistentVolumeClaim", "PodDisruptionBudget",
        "Service",
    }  # fmt: skip


def test_a_wrong_manifest_is_refused(rendered: dict[str, dict]) -> None:
    """The schemas are strict: a misspelt field is an error."""
    wrong = yaml.safe_load(yaml.safe_dump(rendered["Deployment/llm-text-generation"]))
    wrong["spec"]["template"]["spec"]["terminationGracePeriod"] = 300
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_each_model_has_an_overlay_of_its_own() -> None:
    assert {folder.name for folder in (FOLDER / "overlays").iterdir()} == set(MODELS)
    for name in MODELS:
        config = yaml.safe_load((FOLDER / "overlays" / name / "kustomization.yaml").read_text())
        literals = config["configMapGenerator"][0]["literals"]
        assert f"SELECTED_MODEL={name}" in literals
        assert f"MODEL_PATH=/models/{name}_INT8_compressed_weights" in literals


def test_references_meet(rendered: dict[str, dict]) -> None:
    labels = rendered["Deployment/llm-text-generation"]["spec"]["template"]["metadata"]["labels"]
    container_ports = {port["name"] for port in pod(rendered)["containers"][0]["ports"]}
    for name, missing in (("Service/llm-text-generation", {"metrics"}), ("Service/llm-text-generation-pods", set())):
        selector = rendered[name]["spec"]["selector"]
        assert selector.items() <= labels.items()
        assert {port["targetPort"] for port in rendered[name]["spec"]["ports"]} == container_ports - missing
    budget = rendered["PodDisruptionBudget/llm-text-generation"]["spec"]["selector"]["matchLabels"]
    assert budget.items() <= labels.items()
    job = rendered["Job/prepare-model"]["spec"]["template"]
    assert not budget.items() <= job["metadata"]["labels"].items(), "the job's pods would get requests"
    for spec in (pod(rendered), job["spec"]):
        claims = [v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"] if "persistentVolumeClaim" in v]
        assert claims == ["llm-models"]
        config = spec["containers"][0]["envFrom"][0]["configMapRef"]["name"]
        assert re.fullmatch(r"model-\w+", config)
    metadata = rendered["Deployment/llm-text-generation"]["spec"]["template"]["metadata"]
    ports = {port["name"]: str(port["containerPort"]) for port in pod(rendered)["containers"][0]["ports"]}
    assert metadata["annotations"]["prometheus.io/port"] == ports["metrics"]
    assert {"name": "LLM_METRICS_PORT", "value": ports["metrics"]} in pod(rendered)["containers"][0]["env"]
    target = rendered["HorizontalPodAutoscaler/llm-text-generation"]["spec"]["scaleTargetRef"]
    assert f"{target['kind']}/{target['name']}" in rendered
    assert "replicas" not in rendered["Deployment/llm-text-generation"]["spec"], "it would undo the autoscaler's work"


def test_service_ports_say_their_protocol(rendered: dict[str, dict]) -> None:
    for name in ("Service/llm-text-generation", "Service/llm-text-generation-pods"):
        ports = {port["name"]: port for port in rendered[name]["spec"]["ports"]}
        assert ports["grpc"]["port"] == 9000
        assert ports["http"]["port"] == 8000
        assert all("appProtocol" in port for port in ports.values())
    assert rendered["Service/llm-text-generation-pods"]["spec"]["clusterIP"] == "None"


def test_pods_run_without_root_or_writable_root(rendered: dict[str, dict]) -> None:
    for spec in (pod(rendered), rendered["Job/prepare-model"]["spec"]["template"]["spec"]):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["image"] == "openvino/model_server:py"
            assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
    assert all(
        mount["readOnly"] for mount in pod(rendered)["containers"][0]["volumeMounts"] if mount["name"] == "models"
    )


def test_probes_and_termination(rendered: dict[str, dict]) -> None:
    server = pod(rendered)["containers"][0]
    *python, script, graph = server["readinessProbe"]["exec"]["command"]
    assert graph == "python_model"
    assert server["livenessProbe"]["exec"]["command"] == [*python, script]
    startup = server["startupProbe"]
    assert startup["exec"] == server["readinessProbe"]["exec"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 1800, "a 7B model over a network file system"
    hook = server["lifecycle"]["preStop"]["exec"]["command"][-1]
    for inside in (script, hook):
        assert (ROOT / inside.removeprefix("/opt/text_generation/")).exists()
    assert "--metrics_enable" in server["args"], "the preStop hook reads the server's metrics"
    assert pod(rendered)["terminationGracePeriodSeconds"] >= GRACE_SECONDS


@pytest.mark.slow
def test_the_component_chat_serves_it_with_a_page(with_chat: dict[str, dict]) -> None:
    for resource in with_chat.values():
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
    server = pod(with_chat)["containers"][0]
    assert with_chat["ConfigMap/model"]["data"]["SERVABLE"] == "chat"
    for probe in ("startupProbe", "readinessProbe"):
        assert server[probe]["exec"]["command"][-1] == "chat_stream"
    template = with_chat["Deployment/chat-page"]["spec"]["template"]
    [page] = template["spec"]["containers"]
    host, port = page["args"][page["args"].index("--url") + 1].split(":")
    assert int(port) in {port["port"] for port in with_chat[f"Service/{host}"]["spec"]["ports"]}
    assert with_chat["Service/chat-page"]["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    server_pods = with_chat["Service/llm-text-generation"]["spec"]["selector"]
    assert not server_pods.items() <= template["metadata"]["labels"].items(), "the page would get the servers' requests"
    assert template["spec"]["securityContext"]["runAsNonRoot"] is True
    assert page["securityContext"]["readOnlyRootFilesystem"] is True
    assert page["securityContext"]["capabilities"] == {"drop": ["ALL"]}
