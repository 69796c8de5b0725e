"""The data plane: what KServe requests mean, whatever transport they came by."""

import math
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from ovms_local import pyovms
from ovms_local.errors import ExecutionFailed, InvalidRequest, ModelNotAvailable, ModelNotFound
from ovms_local.graph import MAX_TIMESTAMP, MIN_TIMESTAMP, Graph, GraphInstance
from ovms_local.graph_stream import GraphStream

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
    """Answers requests with the graphs that `load` and `unload` put in and take out, from any thread."""

    def __init__(self, names: list[str], workers: Executor) -> None:
        """Know the graphs of these names, none available yet; streams work on threads of `workers`."""
        self._graphs: dict[str, Graph | None] = dict.fromkeys(names)
        self._workers = workers
        self.ready = False

    def load(self, graph: Graph) -> None:
        """Make a graph available."""
        self._graphs[graph.name] = graph

    def unload_all(self) -> None:
        """Make all graphs unavailable to requests to come."""
        self.ready = False
        self._graphs = dict.fromkeys(self._graphs)

    def model_ready(self, name: str) -> bool:
        """Whether a graph is available.

        Raises:
            ModelNotFound: there is no such graph.
        """
        if name not in self._graphs:
            raise ModelNotFound
        return self._graphs[name] is not None

    def metadata(self, name: str) -> ModelMetadata:
        """Describe a graph.

        Raises:
            ModelNotFound, ModelNotAvailable
        """
        config = self._graph(name).config
        return ModelMetadata(name, config.inputs, config.outputs)

    def infer(self, request: InferRequest) -> InferResponse:
        """Run a graph for one request, on the caller's thread, to its end.

        Raises:
            ModelNotFound, ModelNotAvailable, InvalidRequest, ExecutionFailed
        """
        graph = self._graph(request.model_name)
        tensors = _tensors(request, graph)
        if len(tensors) < len(graph.config.inputs):
            raise InvalidRequest("Invalid number of inputs - Not all input packets created")
        timestamp = _clock() if request.timestamp is None else _check_timestamp(request.timestamp)
        first: dict[str, tuple[int, OutputTensor]] = {}
        instance = GraphInstance(graph, lambda at, tensor: first.setdefault(tensor.name, (at, _output(tensor))))
        try:
            for tensor in tensors:
                instance.add_input(tensor, timestamp)
            instance.close_inputs()
            while instance.step():
                pass
        finally:
            instance.close()
        if len(first) < len(graph.config.outputs):
            missing = ", ".join(name for name in graph.config.outputs if name not in first)
            raise ExecutionFailed(f"Unknown error during mediapipe execution: no output {missing}")
        outputs = tuple(first[name][1] for name in graph.config.outputs)
        return InferResponse(graph.name, request.id, max(at for at, _ in first.values()), outputs)

    def open_stream(self, model_name: str) -> "InferStream":
        """Start an instance of a graph for a stream of requests; to be called on the event loop's thread.

        Raises:
            ModelNotFound, ModelNotAvailable
        """
        return InferStream(self._graph(model_name), self._workers)

    def _graph(self, name: str) -> Graph:
        if not self.model_ready(name):
            raise ModelNotAvailable
        return self._graphs[name]


class InferStream:
    """A stream of requests to one graph instance; iterate over it for the responses and the messages of errors."""

    def __init__(self, graph: Graph, workers: Executor) -> None:
        self._graph = graph
        self._stream = GraphStream(graph, workers, self._response)
        self._bounds = dict.fromkeys(graph.config.inputs, MIN_TIMESTAMP)
        self._last_timestamp: int | None = None

    async def send(self, decode: Callable[[], InferRequest]) -> None:
        """Put a request into the graph; what is wrong with it is reported in the stream, which goes on."""
        try:
            packets = self._packets(decode())
        except InvalidRequest as error:
            await self._stream.report(str(error))
        else:
            await self._stream.put(packets)

    def half_close(self) -> None:
        """Say that no more requests come."""
        self._stream.close_inputs()

    def cancel(self) -> None:
        """End the graph instance; the client is gone."""
        self._stream.cancel()

    def __aiter__(self) -> GraphStream:
        return self._stream

    def _packets(self, request: InferRequest) -> list[tuple[pyovms.Tensor, int]]:
        if request.model_name != self._graph.name:
            raise InvalidRequest("Mediapipe incorrect servable name: a stream has one")
        timestamp = request.timestamp
        if timestamp is None:
            timestamp = _clock() if self._last_timestamp is None else self._last_timestamp + 1
        _check_timestamp(timestamp)
        tensors = _tensors(request, self._graph)
        for tensor in tensors:
            if timestamp < self._bounds[tensor.name]:
                raise InvalidRequest(
                    f"Invalid timestamp: {timestamp} for {tensor.name}, must be {self._bounds[tensor.name]} or more"
                )
        for tensor in tensors:
            self._bounds[tensor.name] = timestamp + 1
        self._last_timestamp = timestamp
        return [(tensor, timestamp) for tensor in tensors]

    def _response(self, timestamp: int, tensor: pyovms.Tensor) -> tuple[InferResponse, int]:
        # A generator's timestamps run ahead of the requests'; the next request must not fall behind them.
        self._last_timestamp = max(timestamp, self._last_timestamp)
        output = _output(tensor)
        return InferResponse(self._graph.name, "", timestamp, (output,)), len(output.data)


def _clock() -> int:
    return time.time_ns() // 1000


def _check_timestamp(timestamp: int) -> int:
    if not MIN_TIMESTAMP <= timestamp <= MAX_TIMESTAMP:
        raise InvalidRequest(f"Invalid timestamp: {timestamp} is out of range")
    return timestamp


def _tensors(request: InferRequest, graph: Graph) -> list[pyovms.Tensor]:
    names = [tensor.name for tensor in request.inputs]
    for position, name in enumerate(names):
        if name not in graph.config.inputs:
            raise InvalidRequest(f"Unexpected input name - {name} is unexpected")
        if name in names[:position]:
            raise InvalidRequest(f"Invalid number of inputs - {name} is there twice")
    return [_tensor(tensor) for tensor in request.inputs]


def _tensor(tensor: InputTensor) -> pyovms.Tensor:
    if any(dimension < 0 for dimension in tensor.shape):
        shape = ",".join(map(str, tensor.shape))
        raise InvalidRequest(
            f"Invalid input shape - Negative dimension size is not acceptable: ({shape}); input name: {tensor.name}"
        )
    item_size = pyovms.item_size(tensor.datatype)
    if item_size is not None:
        expected = item_size * math.prod(tensor.shape)
        if item_size * math.prod(max(dimension, 1) for dimension in tensor.shape) > _MAX_BYTES:
            raise InvalidRequest(
                "Invalid content size of tensor proto - Provided shape and datatype declare too large buffer."
            )
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
