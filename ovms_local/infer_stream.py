"""A stream of requests to one graph instance: which ones it accepts, and the errors for the others."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor

from ovms_local.errors import InvalidRequest
from ovms_local.graph import Graph, Packet
from ovms_local.graph_stream import GraphStream
from ovms_local.infer_request import InferRequest
from ovms_local.infer_response import VERSION, InferResponse
from ovms_local.metrics import GraphMetrics


class InferStream:
    """Takes requests with `send`; iteration yields the responses and the texts of errors."""

    def __init__(self, graph: Graph, workers: Executor, metrics: GraphMetrics, on_end: Callable[[bool], None]) -> None:
        """At the end of the graph instance, `on_end` is called on a worker thread with whether it failed."""
        self._graph = graph
        self._workers = workers
        self._metrics = metrics
        self._stream = GraphStream(graph, workers, metrics, on_end)
        self._versions: set[str] = set()  # accepted in later requests; empty before the first request
        self._closed = False

    async def send(self, request: InferRequest, large: bool = False) -> None:
        """Put a request's inputs into the graph. Errors are reported in the stream, which continues.

        Args:
            request: the request.
            large: whether its inputs take too long to decode on the event loop.
        """
        await self._stream.writable()
        if large:
            error = await asyncio.get_running_loop().run_in_executor(self._workers, self._enter, request)
        else:
            error = self._enter(request)
        if error:
            await self._stream.report(error)

    def half_close(self) -> None:
        """Signal that no more requests will come or be accepted."""
        self._closed = True
        self._stream.close_inputs()

    def cancel(self) -> None:
        """End the graph instance, because its client is gone."""
        self._stream.cancel()

    def __aiter__(self) -> AsyncIterator[InferResponse | str]:
        return self._stream

    def _enter(self, request: InferRequest) -> str:
        """Put the inputs into the graph one by one; return the text of an error that is still to be reported, or ""."""
        packets: list[Packet] = []
        where = "validate subsequent requests"
        try:
            if self._versions:
                self._check_subsequent(request)
                where = "partial deserialization of subsequent requests"
            else:
                self._versions = {"", "0", VERSION, request.model_version}
                where = "partial deserialization of first request"
            timestamp = request.timestamp()
            for tensor in request.tensors(self._graph.config.inputs):
                packets.append(Packet(tensor.name, timestamp, tensor))  # noqa: PERF401 - an error leaves those before it
        except InvalidRequest as error:
            self._metrics.rejected.inc()
            text = f"{error}; {where}"
            if not packets:
                return text
            self._stream.put(packets, text)
            return ""
        self._metrics.accepted.inc()
        self._stream.put(packets)
        return ""

    def _check_subsequent(self, request: InferRequest) -> None:
        if self._closed:
            raise InvalidRequest("The server is stopping and accepts no more requests")
        if request.model_name != self._graph.name:
            raise InvalidRequest("Subsequent request with incorrect servable name")
        if request.model_version not in self._versions:
            raise InvalidRequest("Subsequent request with incorrect servable version")
