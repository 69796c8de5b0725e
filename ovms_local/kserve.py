"""The data plane: carries out KServe requests, independent of the transport."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from ovms_local.errors import (
    ExecutionFailed,
    InvalidRequest,
    ModelNotAvailable,
    ModelRetired,
    ServerNotReady,
    ServingError,
)
from ovms_local.graph import Graph, GraphInstance, Packet
from ovms_local.graphs import Graphs
from ovms_local.infer_request import InferRequest
from ovms_local.infer_response import InferResponse, OutputTensor
from ovms_local.infer_stream import InferStream
from ovms_local.metrics import GraphMetrics, Metrics
from ovms_local.pyovms import Tensor

PLATFORM = "OpenVINO"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """A graph's metadata for clients: the sorted names of its streams."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class DataPlane:
    """Answers requests with the loaded graphs."""

    def __init__(self, graphs: Graphs, workers: Executor, metrics: Metrics) -> None:
        """Streams run on threads of `workers`."""
        self._graphs = graphs
        self._workers = workers
        self._streams: set[InferStream] = set()
        self._receiving: set[asyncio.Timeout] = set()
        self._draining = False
        self.metrics = metrics
        self.ready = False

    def drain(self) -> None:
        """Accept no more requests; streams end when their current work is done. For the event loop's thread."""
        self.ready = False
        self._draining = True
        self._graphs.close()
        for stream in list(self._streams):
            stream.half_close()
        for timeout in self._receiving:
            timeout.reschedule(0)

    async def receive(self, incoming: Callable[[], Awaitable[_T]], timeout: float | None = None) -> _T:
        """Wait for a part of a client's request; for the event loop's thread.

        Args:
            incoming: receives it.
            timeout: seconds to wait, None for no limit.

        Raises:
            ServerNotReady: the server is stopping, so that the request would be refused in any case.
            TimeoutError
        """
        try:
            async with asyncio.timeout(0 if self._draining else timeout) as waiting:
                self._receiving.add(waiting)
                try:
                    return await incoming()
                finally:
                    self._receiving.discard(waiting)
        except TimeoutError:
            if self._draining:
                raise ServerNotReady from None
            raise

    def model_ready(self, name: str, interface: str) -> bool:
        """Whether a graph is available.

        Raises:
            ModelNotFound: there is no such graph.
        """
        available = self._graphs.is_available(name)
        self.metrics.count_call(interface, "ModelReady", name, succeeded=True)
        return available

    def metadata(self, name: str, interface: str) -> ModelMetadata:
        """Describe a graph.

        Raises:
            ModelNotFound, ModelNotAvailable, ModelRetired
        """
        try:
            config = self._graphs.config(name)
        except (ModelNotAvailable, ModelRetired):
            self.metrics.count_call(interface, "ModelMetadata", name, succeeded=False)
            raise
        self.metrics.count_call(interface, "ModelMetadata", name, succeeded=True)
        return ModelMetadata(name, config.inputs, config.outputs)

    def infer(self, request: InferRequest, interface: str) -> InferResponse:
        """Run a graph for one request to completion, on the caller's thread.

        Args:
            request: the request.
            interface: `gRPC` or `REST`, for the metrics.

        Raises:
            GraphNotFound, ModelNotAvailable, ModelRetired, InvalidRequest, FailedPrecondition, UnsupportedParameter,
            ExecutionFailed
        """
        request.check_version()
        with self._graphs.use(request.model_name) as graph:
            return _infer(graph, request, self.metrics.of_graph(interface, "ModelInfer", graph.name))

    @contextlib.asynccontextmanager
    async def stream(self, request: InferRequest) -> AsyncIterator[InferStream]:
        """Run an instance of a graph for a stream that begins with this request; for the event loop's thread.

        Leaving the context manager ends the instance.

        Raises:
            GraphNotFound, ModelNotAvailable, ModelRetired, FailedPrecondition, UnsupportedParameter
        """
        name = request.model_name
        if self._graphs.is_reloading(name):
            await asyncio.get_running_loop().run_in_executor(self._workers, self._graphs.wait_reloaded, name)
        use = self._graphs.acquire(name)
        metrics = self.metrics.of_graph("gRPC", "ModelInferStream", name)
        started = time.perf_counter()

        def on_end(failed: bool) -> None:
            metrics.current.dec()
            if not failed:
                metrics.processing_us.observe(_microseconds_since(started))
            self._graphs.release(use)

        try:
            request.check_parameters(use.graph.config.pooled)
        except ServingError:
            self._workers.submit(self._graphs.release, use)
            raise
        stream = InferStream(use.graph, self._workers, metrics, on_end)
        self._streams.add(stream)
        metrics.current.inc()
        try:
            yield stream
        finally:
            self._streams.discard(stream)
            stream.cancel()


def _infer(graph: Graph, request: InferRequest, metrics: GraphMetrics) -> InferResponse:
    started = time.perf_counter()
    metrics.current.inc()
    try:
        timestamp, tensors = _tensors(request, graph)
        metrics.accepted.inc()
        packets = _run(graph, timestamp, tensors)
        # Read at the very end, because a node may still change a buffer that it has output.
        outputs = tuple(OutputTensor.read(packets[name].tensor) for name in graph.config.outputs)
    except ExecutionFailed:
        metrics.errors.inc()
        raise
    except ServingError:
        metrics.rejected.inc()
        raise
    finally:
        metrics.current.dec()
    metrics.processing_us.observe(_microseconds_since(started))
    metrics.responses.inc()
    return InferResponse(graph.name, request.id, max(packet.timestamp for packet in packets.values()), outputs)


def _tensors(request: InferRequest, graph: Graph) -> tuple[int, list[Tensor]]:
    """Return timestamp and tensors of a request, which must have all of the graph's inputs."""
    request.check_parameters(graph.config.pooled)
    timestamp = request.timestamp()
    tensors = list(request.tensors(graph.config.inputs))
    if len(tensors) < len(graph.config.inputs):
        raise InvalidRequest("Invalid number of inputs - Not all input packets created")
    return timestamp, tensors


def _run(graph: Graph, timestamp: int, tensors: list[Tensor]) -> dict[str, Packet]:
    """Run an instance to its end, and return the first packet of each of the graph's outputs."""
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
