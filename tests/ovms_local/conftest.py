"""A server with nodes that follow instructions in the request, and folders with a test's own servables."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc as tritongrpc
from tritonclient.grpc import service_pb2_grpc

from ovms_local.testing import RunningServer, serve
from tests.support.servables import NODE, Events


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Events:
    """The events of the module's server."""
    return Events(tmp_path_factory.mktemp("events") / "events")


@pytest.fixture(scope="module")
def server(events: Events) -> Iterator[RunningServer]:
    """A server with the graphs of tests/ovms_local/servable, shared by a module's tests."""
    arguments = ["--metrics_enable", "--log_level", "DEBUG"]
    with serve(Path(__file__).parent / "servable", env={"EVENTS": str(events.path)}, args=arguments) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[tritongrpc.InferenceServerClient]:
    """A tritonclient for the server."""
    with tritongrpc.InferenceServerClient(server.grpc_url) as triton:
        yield triton


@pytest.fixture
def stub(server: RunningServer) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    """A plain stub of the server's service, for requests that tritonclient does not support."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.grpc_url, options) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A named pipe for which a node can wait; `gate.write_text("")` lets it continue."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


@pytest.fixture
def make_servable(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder with one graph, `python_model`, given the handler's code, and its file name or the whole graph."""

    def make(code: str, handler: str = "model.py", graph: str | None = None, folder: Path = tmp_path) -> Path:
        folder.mkdir(exist_ok=True)
        entry = {"name": "python_model", "base_path": "./", "graph_path": "graph.pbtxt"}
        config = {"model_config_list": [], "mediapipe_config_list": [entry]}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "graph.pbtxt").write_text(graph or NODE.format(handler=handler))
        (folder / handler).write_text(code)
        return folder

    return make
