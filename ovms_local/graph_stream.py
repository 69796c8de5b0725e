"""A graph instance at work for a gRPC stream: between the event loop, which the client talks to, and worker threads."""

import asyncio
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from ovms_local.errors import ServingError, describe
from ovms_local.graph import Graph, GraphInstance
from ovms_local.pyovms import Tensor

_log = logging.getLogger(__name__)

# How far a graph may run ahead of its client, and a client ahead of the graph (MediaPipe's own limit for the latter).
_MAX_WAITING_OUTPUTS = 64
_MAX_WAITING_OUTPUT_BYTES = 1 << 20
_MAX_WAITING_INPUTS = 100


class GraphStream:
    """Runs a graph instance on a worker thread while there is something to run, and on none otherwise.

    The public methods are for the event loop's thread. Iterating gives what the graph puts out, until its inputs are
    closed and nothing is left to do.
    """

    def __init__(
        self,
        graph: Graph,
        workers: Executor,
        convert: Callable[[int, Tensor], tuple[Any, int]],
        on_end: Callable[[bool], None],
    ) -> None:
        """Make an instance of the graph.

        Args:
            graph: the graph.
            workers: where threads come from.
            convert: makes an output, and its size in bytes, of a timestamp and a tensor; called on a worker.
            on_end: called on a worker when the instance is gone, with whether it failed.
        """
        self._instance = GraphInstance(graph, self._emit)
        self._workers = workers
        self._convert = convert
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._waiting = False
        # Guards what follows. `_working` says that a worker thread has the instance, or is about to have it.
        self._lock = threading.Lock()
        self._working = False
        self._inputs: deque[list[tuple[Tensor, int]]] = deque()
        self._inputs_closed = False
        self._outputs: deque[tuple[Any, int]] = deque()
        self._output_bytes = 0
        self._throttled = False
        self._over = False
        self._cancelled = False
        self._failure: ServingError | None = None
        self._failure_seen = False

    async def put(self, packets: list[tuple[Tensor, int]]) -> None:
        """Hand packets, tensors with their timestamps, to the graph; waits while too many wait already."""
        await self._until(lambda: len(self._inputs) < _MAX_WAITING_INPUTS or self._over)
        self._inputs.append(packets)
        self._client_moved()

    async def report(self, output: Any) -> None:
        """Send the client something that does not come from the graph."""
        await self._until(lambda: len(self._outputs) < _MAX_WAITING_OUTPUTS or self._over)
        with self._lock:
            self._outputs.append((output, 0))
            self._failure_seen |= self._over
        self._event.set()

    def close_inputs(self) -> None:
        """Say that no more packets come: the graph ends when it has nothing left to do."""
        self._inputs_closed = True
        self._client_moved()

    def cancel(self) -> None:
        """End the graph after the call of a node that is under way; what it has put out is dropped."""
        self._cancelled = True
        self._start_work()

    def __aiter__(self) -> "GraphStream":
        return self

    async def __anext__(self) -> Any:
        """The next output.

        Raises:
            ServingError: the graph failed. As in the real server, this is told when the client has sent something
                after the failure, or has closed its side; until then the stream just stays silent.
        """
        if not self._outputs:
            await self._until(lambda: self._outputs or (self._over and (self._failure is None or self._failure_seen)))
        if not self._outputs:
            if self._failure:
                raise self._failure
            raise StopAsyncIteration
        with self._lock:
            output, size = self._outputs.popleft()
            self._output_bytes -= size
            # Most of the room is free again before the worker is called back, so that it is not called for each output.
            resume = self._throttled and not self._is_full(8)
            self._throttled &= not resume
        if resume:
            self._start_work()
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
        with self._lock:
            if self._over:
                self._failure_seen = True
                self._event.set()
        self._start_work()

    def _start_work(self) -> None:
        with self._lock:
            if self._working or self._over:
                return
            self._working = True
        self._workers.submit(self._work)

    # On a worker thread from here on.

    def _work(self) -> None:
        progressed = True
        try:
            while self._may_continue(progressed):
                progressed = self._instance.step()
        except ServingError as error:
            self._end(error)
        except Exception as error:
            _log.error("stream failed: %s", describe(error), exc_info=True)
            self._end(ServingError("Internal server error"))

    def _may_continue(self, progressed: bool) -> bool:
        """Give the instance what came meanwhile; False where the worker has to leave it."""
        with self._lock:
            if not self._cancelled:
                if self._is_full():
                    self._throttled = True
                    self._working = False
                    return False
                packets = [self._inputs.popleft() for _ in range(len(self._inputs))]
                closing = self._inputs_closed and not self._instance.inputs_closed
                if not (progressed or packets or self._inputs_closed):
                    self._working = False
                    return False
        if self._cancelled or not (progressed or packets or closing):
            self._end(None)
            return False
        for tensor, timestamp in itertools.chain(*packets):
            self._instance.add_input(tensor, timestamp)
        if closing:
            self._instance.close_inputs()
        if packets:
            self._notify()
        return True

    def _is_full(self, divisor: int = 1) -> bool:
        return (
            len(self._outputs) >= _MAX_WAITING_OUTPUTS // divisor
            or self._output_bytes >= _MAX_WAITING_OUTPUT_BYTES // divisor
        )

    def _end(self, failure: ServingError | None) -> None:
        self._instance.close()
        self._on_end(failure is not None)
        with self._lock:
            self._failure = failure
            self._failure_seen = self._inputs_closed or bool(self._inputs)
            self._over = True
        self._notify()

    def _emit(self, timestamp: int, tensor: Tensor) -> None:
        output, size = self._convert(timestamp, tensor)
        with self._lock:
            self._outputs.append((output, size))
            self._output_bytes += size
        self._notify()
