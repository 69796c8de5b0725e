"""The data plane: what KServe requests mean, whatever transport they came by."""

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from ovms_local import pyovms
from ovms_local.errors import ExecutionFailed, InvalidRequest, ModelNotAvailable, ModelNotFound
from ovms_local.graph import MAX_TIMESTAMP, MIN_TIMESTAMP, Graph, GraphInstance
from ovms_local.graph_stream import GraphStream
from ovms_local.metrics import GraphMetrics, Metrics

VERSION = "1"
PLATFORM = "OpenVINO"
TIMESTAMP_PARAMETER = "OVMS_MP_TIMESTAMP"
_MAX_BYTES = 2**63 - 1


@dataclass(frozen=True, slots=True)
class InputTensor:
    """An input of a request; elements of BYTES are packed, each behind its length as 4 little-endian bytes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request to a graph. Without a timestamp, in microseconds, it gets one."""

    model_name: str
    inputs: tuple[InputTensor, ...]
    id: str = ""
    timestamp: int | None = None


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """An output of a response, with a copy of its data."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class InferResponse:
    """The response to a request; one of a stream has one output."""

    model_name: str
    id: str
    timestamp: int
    outputs: tuple[OutputTensor, ...]


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
        config = self._graph(name).config
        return ModelMetadata(name, config.inputs, config.outputs)

    def infer(self, model_name: str, interface: str, decode: Callable[[], InferRequest]) -> InferResponse:
        """Run a graph for one request, on the caller's thread, to its end.

        Args:
            model_name: the graph.
            interface: `gRPC` or `REST`, for the metrics.
            decode: makes the request of what came; what it raises is raised.

        Raises:
            ModelNotFound, ModelNotAvailable, InvalidRequest, ExecutionFailed
        """
        started = time.perf_counter()
        graph = self._graph(model_name)
        metrics = self.metrics.of_graph(interface, "ModelInfer", model_name)
        try:
            request = decode()
            tensors = _tensors(request, graph)
            if len(tensors) < len(graph.config.inputs):
                raise InvalidRequest("Invalid number of inputs - Not all input packets created")
            timestamp = _clock() if request.timestamp is None else _check_timestamp(request.timestamp)
        except InvalidRequest:
            metrics.rejected.inc()
            raise
        metrics.accepted.inc()
        self._instance_started(metrics)
        try:
            response = _run(graph, tensors, timestamp, request.id)
        except ExecutionFailed:
            metrics.errors.inc()
            raise
        finally:
            self._instance_ended(metrics, started)
        metrics.responses.inc()
        metrics.latency_us.observe(_microseconds_since(started))
        return response

    def open_stream(self, model_name: str) -> "InferStream":
        """Start an instance of a graph for a stream of requests; for the event loop's thread.

        Raises:
            ModelNotFound, ModelNotAvailable
        """
        graph = self._graph(model_name)
        metrics = self.metrics.of_graph("gRPC", "ModelInferStream", model_name)
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
        if not self.model_ready(name):
            raise ModelNotAvailable
        return self._graphs[name]


class InferStream:
    """A stream of requests to one graph instance; iterate over it for the responses and the texts of errors."""

    def __init__(self, graph: Graph, workers: Executor, metrics: GraphMetrics, on_end: Callable[[], None]) -> None:
        """`on_end` is called on a worker's thread when the graph instance is gone."""
        self._graph = graph
        self._metrics = metrics
        self._on_end = on_end
        self._requested: float | None = None
        self._bounds = dict.fromkeys(graph.config.inputs, MIN_TIMESTAMP)
        # One is set by the event loop alone, the other by workers alone.
        self._last_request = self._last_output = MIN_TIMESTAMP - 1
        self._half_closed = False
        self._stream = GraphStream(graph, workers, self._response, self._ended)

    async def send(self, request: InferRequest) -> None:
        """Put a request into the graph.

        Raises:
            InvalidRequest: it does not fit; the stream goes on.
        """
        packets = self._packets(request)
        self._metrics.accepted.inc()
        self._requested = time.perf_counter()
        await self._stream.put(packets)

    async def report(self, error: InvalidRequest) -> None:
        """Tell the client, in the stream, what is wrong with a request."""
        self._metrics.rejected.inc()
        await self._stream.report(str(error))

    def half_close(self) -> None:
        """Say that no more requests come, or are taken."""
        self._half_closed = True
        self._stream.close_inputs()

    def cancel(self) -> None:
        """End the graph instance, since its client is gone."""
        self._stream.cancel()

    def __aiter__(self) -> AsyncIterator[InferResponse | str]:
        return self._stream

    def _packets(self, request: InferRequest) -> list[tuple[pyovms.Tensor, int]]:
        if self._half_closed:
            raise InvalidRequest("The server is stopping and takes no more requests")
        if request.model_name != self._graph.name:
            raise InvalidRequest(f"Mediapipe incorrect servable name - this stream is one of {self._graph.name}")
        if not request.inputs:
            raise InvalidRequest("Invalid number of inputs - the request has none")
        timestamp = request.timestamp
        if timestamp is None:
            # A generator's timestamps run ahead of the requests'; the next request must not fall behind them.
            last = max(self._last_request, self._last_output)
            timestamp = _clock() if last < MIN_TIMESTAMP else last + 1
        _check_timestamp(timestamp)
        tensors = _tensors(request, self._graph)
        for tensor in tensors:
            if timestamp < self._bounds[tensor.name]:
                lowest = self._bounds[tensor.name]
                raise InvalidRequest(
                    f"Invalid timestamp - {timestamp} does not grow, {lowest} is the next for {tensor.name}"
                )
        self._bounds.update((tensor.name, timestamp + 1) for tensor in tensors)
        self._last_request = timestamp
        return [(tensor, timestamp) for tensor in tensors]

    # The two below are called on a worker's thread.

    def _response(self, timestamp: int, tensor: pyovms.Tensor) -> tuple[InferResponse, int]:
        self._last_output = timestamp
        self._metrics.responses.inc()
        requested, self._requested = self._requested, None
        if requested is not None:
            self._metrics.latency_us.observe(_microseconds_since(requested))
        output = _output(tensor)
        return InferResponse(self._graph.name, "", timestamp, (output,)), len(output.data)

    def _ended(self, failed: bool) -> None:
        if failed:
            self._metrics.errors.inc()
        self._on_end()


def _run(graph: Graph, tensors: list[pyovms.Tensor], timestamp: int, request_id: str) -> InferResponse:
    """Run an instance to its end; of each output, its first packet is the response's."""
    first: dict[str, tuple[int, OutputTensor]] = {}

    def keep(at: int, tensor: pyovms.Tensor) -> None:
        if tensor.name not in first:
            first[tensor.name] = (at, _output(tensor))

    instance = GraphInstance(graph, keep)
    try:
        for tensor in tensors:
            instance.add_input(tensor, timestamp)
        instance.close_inputs()
        while instance.step():
            pass
    finally:
        instance.close()
    missing = [name for name in graph.config.outputs if name not in first]
    if missing:
        raise ExecutionFailed(f"Unknown error during mediapipe execution: no output {', '.join(missing)}")
    outputs = tuple(first[name][1] for name in graph.config.outputs)
    return InferResponse(graph.name, request_id, max(at for at, _ in first.values()), outputs)


def _clock() -> int:
    return time.time_ns() // 1000


def _microseconds_since(started: float) -> float:
    return (time.perf_counter() - started) * 1e6


def _check_timestamp(timestamp: int) -> int:
    if not MIN_TIMESTAMP <= timestamp <= MAX_TIMESTAMP:
        raise InvalidRequest(f"Invalid timestamp - {timestamp} is out of range")
    return timestamp


def _tensors(request: InferRequest, graph: Graph) -> list[pyovms.Tensor]:
    seen = set()
    for tensor in request.inputs:
        if tensor.name not in graph.config.inputs:
            raise InvalidRequest(f"Unexpected input name - {tensor.name} is unexpected")
        if tensor.name in seen:
            raise InvalidRequest(f"Invalid number of inputs - {tensor.name} is there twice")
        seen.add(tensor.name)
    return [_tensor(tensor) for tensor in request.inputs]


def _tensor(tensor: InputTensor) -> pyovms.Tensor:
    if any(dimension < 0 for dimension in tensor.shape):
        shape = ",".join(map(str, tensor.shape))
        raise InvalidRequest(
            f"Invalid input shape - Negative dimension size is not acceptable: ({shape}); input name: {tensor.name}"
        )
    item_size = pyovms.item_size(tensor.datatype)
    # Dimensions of 0 must not hide that the others are too much for any buffer.
    if (item_size or 1) * math.prod(max(dimension, 1) for dimension in tensor.shape) > _MAX_BYTES:
        raise InvalidRequest(
            "Invalid content size of tensor proto - Provided shape and datatype declare too large buffer."
        )
    if item_size is not None:
        expected = item_size * math.prod(tensor.shape)
        if len(tensor.data) != expected:
            raise InvalidRequest(
                "Invalid content size of tensor proto - Invalid Python tensor buffer size. "
                f"Actual: {len(tensor.data)}; Expected: {expected}"
            )
    try:
        return pyovms.tensor_from_request(tensor.name, tensor.datatype, tensor.shape, tensor.data)
    except ValueError as error:
        raise InvalidRequest(f"Invalid input shape - {error}; input name: {tensor.name}") from error


def _output(tensor: pyovms.Tensor) -> OutputTensor:
    return OutputTensor(tensor.name, tensor.datatype, tensor.shape, tensor.data.tobytes())
