"""Runs a graph instance for a gRPC stream, between the event loop, which serves the client, and worker threads."""

import asyncio
import enum
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor

from ovms_local.errors import ServingError, TimestampMismatch, describe
from ovms_local.graph import Graph, GraphInstance, Packet
from ovms_local.infer_response import InferResponse, OutputTensor
from ovms_local.metrics import GraphMetrics

_log = logging.getLogger(__name__)

# How far a graph may run ahead of its client, and a client ahead of the graph (the latter is MediaPipe's own limit).
_MAX_WAITING_OUTPUTS = 64
_MAX_WAITING_OUTPUT_BYTES = 1 << 20
_MAX_WAITING_INPUTS = 100


class _State(enum.Enum):
    """What has to happen next."""

    WORKING = "a worker steps the instance, or is about to"
    IDLE = "the client sends something or closes its side"
    FULL = "the client reads the waiting outputs"
    FAILED = "the client sends something or closes its side, and then learns of the failure"
    OVER = "the client reads the remaining outputs and the failure"


class _Client(enum.Enum):
    """What the client can still do."""

    SENDING = "send requests"
    LISTENING = "only read, since its side is closed"
    GONE = "nothing"


class GraphStream:
    """Runs a graph instance on a worker thread while there is work, and holds no thread otherwise.

    Iteration yields the graph's outputs and the texts of errors, until its inputs are closed and all work is done.
    Iteration, `writable` and `report` are for the event loop's thread; the other methods are for any thread.
    """

    def __init__(self, graph: Graph, workers: Executor, metrics: GraphMetrics, on_end: Callable[[bool], None]) -> None:
        """Create an instance of the graph. At its end, `on_end` is called on a worker with whether it failed."""
        self._name = graph.name
        self._instance = GraphInstance(graph)
        self._workers = workers
        self._metrics = metrics
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._waiting = False  # whether anyone waits for the event
        # The lock guards the fields below.
        self._lock = threading.Lock()
        self._state = _State.IDLE
        self._client = _Client.SENDING
        self._inputs: deque[list[Packet] | str] = deque()
        self._outputs: deque[InferResponse | str] = deque()
        self._output_bytes = 0
        self._failure: ServingError | None = None

    async def writable(self) -> None:
        """Wait while too many of the client's requests are waiting."""
        await self._until(lambda: len(self._inputs) < _MAX_WAITING_INPUTS or self._state is _State.OVER)

    def put(self, *items: list[Packet] | str) -> None:
        """Queue packets for the graph. A text goes to the client once the graph has taken the packets before it."""
        with self._lock:
            self._inputs.extend(items)
        self._client_moved()

    async def report(self, text: str) -> None:
        """Send the client a text that does not come from the graph."""
        await self._until(lambda: len(self._outputs) < _MAX_WAITING_OUTPUTS or self._state is _State.OVER)
        with self._lock:
            self._outputs.append(text)
            if self._state is _State.FAILED:
                self._state = _State.OVER
        self._event.set()

    def close_inputs(self) -> None:
        """Signal that no more packets will come; the graph ends when it has nothing left to do."""
        if self._client is _Client.SENDING:
            self._client = _Client.LISTENING
        self._client_moved()

    def cancel(self) -> None:
        """End the graph after the node call under way; its outputs are dropped."""
        self._client = _Client.GONE
        self._client_moved()

    def __aiter__(self) -> "GraphStream":
        return self

    async def __anext__(self) -> InferResponse | str:
        """Return the next response, or the text of an error.

        Raises:
            ServingError: the graph failed. As in the real server, this is reported only when the client has sent
                something after the failure or has closed its side; until then the stream stays silent.
        """
        if not self._outputs:
            await self._until(lambda: self._outputs or self._state is _State.OVER)
        if not self._outputs:
            if self._failure:
                raise self._failure
            raise StopAsyncIteration
        with self._lock:
            output = self._outputs.popleft()
            self._output_bytes -= _size(output)
            if len(self._outputs) == _MAX_WAITING_OUTPUTS - 1:
                self._event.set()
            # Resume the worker only once most of the space is free, so that it is not woken for each output.
            resume = self._state is _State.FULL and not self._is_full(8)
            if resume:
                self._state = _State.WORKING
        if resume:
            self._workers.submit(self._work)
        return output

    async def _until(self, condition: Callable[[], object]) -> None:
        while True:
            self._event.clear()
            self._waiting = True
            if condition():
                return
            await self._event.wait()

    def _notify(self) -> None:
        if self._waiting:
            self._waiting = False
            self._loop.call_soon_threadsafe(self._event.set)

    def _client_moved(self) -> None:
        """After an action of the client, wake a worker, or let the client learn of a failure."""
        with self._lock:
            found = self._state
            if found is _State.IDLE or (found is _State.FULL and self._client is _Client.GONE):
                self._state = _State.WORKING
            elif found is _State.FAILED:
                self._state = _State.OVER
            changed = self._state is not found
        if changed and found is _State.FAILED:
            self._notify()
        elif changed:
            self._workers.submit(self._work)

    def _is_full(self, divisor: int = 1) -> bool:
        return (
            len(self._outputs) >= _MAX_WAITING_OUTPUTS // divisor
            or self._output_bytes >= _MAX_WAITING_OUTPUT_BYTES // divisor
        )

    # The methods below run on a worker thread.

    def _work(self) -> None:
        """Step the instance until it needs the client or has nothing left to do."""
        ready = True
        try:
            while self._has_work(ready):
                self._take_input()
                packets = self._instance.step()
                ready = packets is not None
                if packets:
                    self._deliver(packets)
        except ServingError as error:
            self._end(error)
        except Exception as error:
            _log.error("stream failed: %s", describe(error), exc_info=True)
            self._end(ServingError("Internal server error"))

    def _has_work(self, ready: bool) -> bool:
        """Whether to continue stepping; `ready` says whether a node may be ready."""
        with self._lock:
            closing = self._client is _Client.LISTENING and not self._instance.inputs_closed
            if self._client is not _Client.GONE:
                if self._is_full():
                    self._state = _State.FULL
                    return False
                if ready or self._inputs or closing:
                    return True
                if self._client is _Client.SENDING:
                    self._state = _State.IDLE
                    return False
        self._end(None)
        return False

    def _take_input(self) -> None:
        """Give the instance the client's next packets, or tell it that there will be no more."""
        if self._inputs:
            item = self._inputs.popleft()
            if len(self._inputs) == _MAX_WAITING_INPUTS - 1:
                self._notify()
            if isinstance(item, str):
                self._append([item])
            else:
                for packet in item:
                    self._instance.add_input(packet)
        elif self._client is _Client.LISTENING and not self._instance.inputs_closed:
            self._instance.close_inputs()

    def _deliver(self, packets: list[Packet]) -> None:
        self._metrics.responses.inc(len(packets))
        self._append(
            [InferResponse(self._name, "", packet.timestamp, (OutputTensor.read(packet.tensor),)) for packet in packets]
        )

    def _append(self, outputs: list[InferResponse | str]) -> None:
        with self._lock:
            self._outputs.extend(outputs)
            self._output_bytes += sum(map(_size, outputs))
        self._notify()

    def _end(self, failure: ServingError | None) -> None:
        self._instance.close()
        if failure:
            self._metrics.errors.inc()
        self._on_end(failure is not None)
        with self._lock:
            self._failure = failure
            moved = self._client is not _Client.SENDING or self._inputs
            told = failure is None or moved or isinstance(failure, TimestampMismatch)
            self._state = _State.OVER if told else _State.FAILED
        self._notify()


def _size(output: InferResponse | str) -> int:
    return 0 if isinstance(output, str) else len(output.outputs[0].data)
