"""A graph instance at work for a gRPC stream: between the event loop, which the client talks to, and worker threads."""

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

# How far a graph may run ahead of its client, and a client ahead of the graph (MediaPipe's own limit for the latter).
_MAX_WAITING_OUTPUTS = 64
_MAX_WAITING_OUTPUT_BYTES = 1 << 20
_MAX_WAITING_INPUTS = 100


class _State(enum.Enum):
    """What has to happen before anything else can."""

    WORKING = "a worker steps the instance, or is about to"
    IDLE = "the client sends something, or closes its side"
    FULL = "the client reads what is there"
    FAILED = "the client sends something or closes its side, and is then told of the failure"
    OVER = "the client reads what is left, the failure included"


class _Client(enum.Enum):
    """What the client may still do."""

    SENDING = "send requests"
    LISTENING = "read: its side is closed"
    GONE = "nothing"


class GraphStream:
    """Runs a graph instance on a worker thread while there is something to run, and on none otherwise.

    Iterating gives what the graph puts out, and the texts of errors, until its inputs are closed and nothing is left to
    do. Iteration, `writable` and `report` are for the event loop's thread; the other methods are for any thread.
    """

    def __init__(self, graph: Graph, workers: Executor, metrics: GraphMetrics, on_end: Callable[[bool], None]) -> None:
        """Make an instance of the graph. `on_end` is told on a worker that it is gone, and whether it failed."""
        self._name = graph.name
        self._instance = GraphInstance(graph)
        self._workers = workers
        self._metrics = metrics
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._waiting = False  # somebody waits for the event
        # The lock guards what follows.
        self._lock = threading.Lock()
        self._state = _State.IDLE
        self._client = _Client.SENDING
        self._inputs: deque[list[Packet] | str] = deque()
        self._outputs: deque[InferResponse | str] = deque()
        self._output_bytes = 0
        self._failure: ServingError | None = None

    async def writable(self) -> None:
        """Wait while too much of what the client sent waits already."""
        await self._until(lambda: len(self._inputs) < _MAX_WAITING_INPUTS or self._state is _State.OVER)

    def put(self, *items: list[Packet] | str) -> None:
        """Hand packets to the graph. A text goes to the client once the graph has taken the packets before it."""
        with self._lock:
            self._inputs.extend(items)
        self._client_moved()

    async def report(self, text: str) -> None:
        """Send the client something that does not come from the graph."""
        await self._until(lambda: len(self._outputs) < _MAX_WAITING_OUTPUTS or self._state is _State.OVER)
        with self._lock:
            self._outputs.append(text)
            if self._state is _State.FAILED:
                self._state = _State.OVER
        self._event.set()

    def close_inputs(self) -> None:
        """Say that no more packets come: the graph ends when it has nothing left to do."""
        if self._client is _Client.SENDING:
            self._client = _Client.LISTENING
        self._client_moved()

    def cancel(self) -> None:
        """End the graph after the call of a node that is under way; what it has put out is dropped."""
        self._client = _Client.GONE
        self._client_moved()

    def __aiter__(self) -> "GraphStream":
        return self

    async def __anext__(self) -> InferResponse | str:
        """The next response, or the text of an error.

        Raises:
            ServingError: the graph failed. As in the real server, this is told when the client has sent something
                after the failure, or has closed its side; until then the stream just stays silent.
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
            # Most of the room is free again before the worker is called back, so that it is not called for each output.
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
        """Let a worker see what the client has done, or let the client be told of a failure."""
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

    # On a worker thread from here on.

    def _work(self) -> None:
        """Step the instance until the client has to do something, or nothing is left to do."""
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
        """Whether to step on. `ready`: a node may be."""
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
        """Give the instance the next of what the client sent, or tell it that nothing more comes."""
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
