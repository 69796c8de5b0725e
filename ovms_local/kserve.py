"""The data plane: what KServe requests mean, whatever transport they came by."""

import asyncio
import threading
import time
from concurrent.futures import Executor
from dataclasses import dataclass

from ovms_local.errors import (
    ExecutionFailed,
    GraphNotFound,
    InvalidRequest,
    ModelNotAvailable,
    ModelNotFound,
    ServingError,
)
from ovms_local.graph import Graph, GraphInstance, Packet
from ovms_local.infer_request import InferRequest
from ovms_local.infer_response import InferResponse, OutputTensor
from ovms_local.infer_stream import InferStream
from ovms_local.metrics import GraphMetrics, Metrics
from ovms_local.pyovms import Tensor

PLATFORM = "OpenVINO"


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a client can learn about a graph: names of its streams, sorted."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class DataPlane:
    """Answers requests with the graphs that it has been given."""

    def __init__(self, names: list[str], workers: Executor) -> None:
        """Know the graphs of these names, none available yet; streams work on threads of `workers`."""
        self._graphs: dict[str, Graph | None] = dict.fromkeys(names)
        self._workers = workers
        self._streams: set[InferStream] = set()
        self._stopping = False
        self._instances = 0
        self._instances_changed = threading.Condition()
        self.metrics = Metrics()
        for name in names:
            for interface, method in (("gRPC", "ModelInfer"), ("gRPC", "ModelInferStream"), ("REST", "ModelInfer")):
                self.metrics.of_graph(interface, method, name)  # with 0, so that a rate has something to start from
        self.ready = False

    def load(self, graph: Graph) -> None:
        """Make a graph available."""
        self._graphs[graph.name] = graph

    def drain(self) -> None:
        """Take no more requests; streams end when what they have got is done. For the event loop's thread."""
        self.ready = False
        self._stopping = True
        for stream in list(self._streams):
            stream.half_close()

    async def wait_idle(self, timeout: float) -> bool:
        """Wait until no graph runs, for so many seconds at most; whether none does."""

        def wait() -> bool:
            with self._instances_changed:
                return self._instances_changed.wait_for(lambda: self._instances == 0, timeout)

        return await asyncio.to_thread(wait)

    def model_ready(self, name: str) -> bool:
        """Whether a graph is available.

        Raises:
            ModelNotFound: there is no such graph.
        """
        if name not in self._graphs:
            raise ModelNotFound
        return self._graphs[name] is not None and not self._stopping

    def metadata(self, name: str) -> ModelMetadata:
        """Describe a graph.

        Raises:
            ModelNotFound, ModelNotAvailable
        """
        if not self.model_ready(name):
            raise ModelNotAvailable
        config = self._graphs[name].config
        return ModelMetadata(name, config.inputs, config.outputs)

    def infer(self, request: InferRequest, interface: str) -> InferResponse:
        """Run a graph for one request, on the caller's thread, to its end.

        Args:
            request: the request.
            interface: `gRPC` or `REST`, for the metrics.

        Raises:
            GraphNotFound, ModelNotAvailable, InvalidRequest, FailedPrecondition, UnsupportedParameter, ExecutionFailed
        """
        started = time.perf_counter()
        request.check_version()
        graph = self._graph(request.model_name)
        metrics = self.metrics.of_graph(interface, "ModelInfer", graph.name)
        try:
            timestamp, tensors = _tensors(request, graph)
        except ServingError:
            metrics.rejected.inc()
            raise
        metrics.accepted.inc()
        self._instance_started(metrics)
        try:
            packets = _run(graph, timestamp, tensors)
            # Read at the very end: a node may go on to fill a buffer that it has put out.
            outputs = tuple(OutputTensor.read(packets[name].tensor) for name in graph.config.outputs)
        except ExecutionFailed:
            metrics.errors.inc()
            raise
        finally:
            self._instance_ended(metrics, started)
        metrics.responses.inc()
        return InferResponse(graph.name, request.id, max(packet.timestamp for packet in packets.values()), outputs)

    def open_stream(self, request: InferRequest) -> InferStream:
        """Start an instance of a graph for a stream that begins with this request; for the event loop's thread.

        Raises:
            GraphNotFound, ModelNotAvailable, FailedPrecondition, UnsupportedParameter
        """
        graph = self._graph(request.model_name)
        request.check_parameters(graph.config.pooled)
        metrics = self.metrics.of_graph("gRPC", "ModelInferStream", graph.name)
        started = time.perf_counter()

        def on_end() -> None:
            self._streams.discard(stream)
            self._instance_ended(metrics, started)

        stream = InferStream(graph, self._workers, metrics, on_end)
        self._streams.add(stream)
        self._instance_started(metrics)
        return stream

    def _instance_started(self, metrics: GraphMetrics) -> None:
        metrics.current.inc()
        with self._instances_changed:
            self._instances += 1

    def _instance_ended(self, metrics: GraphMetrics, started: float) -> None:
        metrics.current.dec()
        metrics.processing_us.observe(_microseconds_since(started))
        with self._instances_changed:
            self._instances -= 1
            self._instances_changed.notify_all()

    def _graph(self, name: str) -> Graph:
        if name not in self._graphs:
            raise GraphNotFound
        if not self.model_ready(name):
            raise ModelNotAvailable
        return self._graphs[name]


def _tensors(request: InferRequest, graph: Graph) -> tuple[int, list[Tensor]]:
    """The timestamp and the tensors of a request that has to bring all inputs at once."""
    request.check_parameters(graph.config.pooled)
    timestamp = request.timestamp()
    tensors = list(request.tensors(graph.config.inputs))
    if len(tensors) < len(graph.config.inputs):
        raise InvalidRequest("Invalid number of inputs - Not all input packets created")
    return timestamp, tensors


def _run(graph: Graph, timestamp: int, tensors: list[Tensor]) -> dict[str, Packet]:
    """Run an instance to its end; of each output its first packet, with the graph's outputs as keys."""
    first: dict[str, Packet] = {}
    instance = GraphInstance(graph)
    try:
        for tensor in tensors:
            instance.add_input(Packet(tensor.name, timestamp, tensor))
        instance.close_inputs()
        while (packets := instance.step()) is not None:
            for packet in packets:
                first.setdefault(packet.stream, packet)
    finally:
        instance.close()
    missing = [name for name in graph.config.outputs if name not in first]
    if missing:
        raise ExecutionFailed(f"Unknown error during mediapipe execution: no output {', '.join(missing)}")
    return first


def _microseconds_since(started: float) -> float:
    return (time.perf_counter() - started) * 1e6
