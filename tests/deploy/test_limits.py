"""The server's limits allow all requests that the servables admit, as well as health checks and metrics."""

import queue
from itertools import pairwise
from pathlib import Path

import pytest
import tritonclient.grpc as grpcclient
import yaml

from ovms_local.testing import serve
from tests.support import ROOT, watch
from tests.support.clients import text_input
from tests.support.deployment import SERVABLE, calls_inside
from text_generation.serve.settings import Settings

# Other requests: health checks, metrics, and requests beyond the limit, which are refused at once.
SPARE = 16
# gRPC has its own threads, one or two per core of the machine.
CORES = 128


def from_compose() -> dict[str, tuple[list[str], dict[str, str]]]:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    servers = {name: service for name, service in services.items() if "--grpc_max_threads" in service["command"]}
    assert servers.keys() == {"server", "server-gpu"}
    return {f"compose {name}": (service["command"], service["environment"]) for name, service in servers.items()}


def from_container(file: str, *path: str) -> tuple[list[str], dict[str, str]]:
    spec = yaml.safe_load((ROOT / "deploy" / file).read_text())
    for key in path:
        spec = spec[key]
    container = spec["containers"][0]
    return container["args"], {variable["name"]: variable["value"] for variable in container["env"]}


DEPLOYMENTS = {
    **from_compose(),
    "Kubernetes": from_container("kubernetes/base/deployment.yaml", "spec", "template", "spec"),
    "KServe": from_container("kserve/serving-runtime.yaml", "spec"),
}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_requests_within_the_servables_limits_reach_it(name: str) -> None:
    arguments, environment = DEPLOYMENTS[name]
    value = dict(pairwise(arguments))
    settings = Settings(
        max_concurrent_requests=environment["MAX_CONCURRENT_REQUESTS"],
        max_queued_requests=environment["MAX_QUEUED_REQUESTS"],
    )
    needed = settings.max_concurrent_requests + settings.max_queued_requests + SPARE
    assert int(value["--rest_workers"]) >= needed
    argument, streams = value["--grpc_channel_arguments"].split("=")
    assert argument == "grpc.max_concurrent_streams"
    assert int(streams) >= needed
    assert int(value["--grpc_max_threads"]) >= needed + 2 * CORES


@pytest.mark.slow
def test_they_are_all_in_the_server_at_once_and_health_and_metrics_are_answered(tmp_path: Path) -> None:
    """As many calls as a servable admits, over one connection, with the flags of the deployments."""
    arguments, environment = DEPLOYMENTS["compose server"]
    flags = arguments[arguments.index("--metrics_enable") :]
    count = environment["MAX_CONCURRENT_REQUESTS"] + environment["MAX_QUEUED_REQUESTS"]
    gate, answers = tmp_path / "gate", queue.Queue()
    env = {"GATE": str(gate), "REPLICA": "a"}
    with serve(SERVABLE, env=env, args=flags) as server, grpcclient.InferenceServerClient(server.grpc_url) as client:
        for _ in range(count):
            client.async_infer("gate", text_input("text", ""), lambda result, error: answers.put(error))  # noqa: ARG005

        watch.until(lambda: calls_inside(server, "gate") == count, process=server.process)
        assert client.is_server_live(client_timeout=10)
        gate.touch()
        assert [answers.get(timeout=60) for _ in range(count)] == [None] * count


def test_readme_names_the_same_limits() -> None:
    arguments, _ = DEPLOYMENTS["compose server"]
    limits = " ".join(arguments[arguments.index("--rest_workers") :])
    assert limits in " ".join((ROOT / "README.md").read_text().replace("\\\n", " ").split())
