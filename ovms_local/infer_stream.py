"""A stream of requests to one graph instance: which ones it takes, and what the client is told about the others."""

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
    """Send the requests, and iterate for the responses and the texts of errors."""

    def __init__(self, graph: Graph, workers: Executor, metrics: GraphMetrics, on_end: Callable[[bool], None]) -> None:
        """`on_end` is told on a worker's thread that the graph instance is gone, and whether it failed."""
        self._graph = graph
        self._workers = workers
        self._metrics = metrics
        self._stream = GraphStream(graph, workers, metrics, on_end)
        self._versions: set[str] = set()  # those a later request may name; empty before the first request
        self._closed = False

    async def send(self, request: InferRequest, large: bool = False) -> None:
        """Put a request's inputs into the graph. What is wrong with it is told in the stream, which goes on.

        Args:
            request: the request.
            large: decoding its inputs takes so long that it has to stay off the event loop.
        """
        await self._stream.writable()
        if large:
            error = await asyncio.get_running_loop().run_in_executor(self._workers, self._enter, request)
        else:
            error = self._enter(request)
        if error:
            await self._stream.report(error)

    def half_close(self) -> None:
        """Say that no more requests come, or are taken."""
        self._closed = True
        self._stream.close_inputs()

    def cancel(self) -> None:
        """End the graph instance, since its client is gone."""
        self._stream.cancel()

    def __aiter__(self) -> AsyncIterator[InferResponse | str]:
        return self._stream

    def _enter(self, request: InferRequest) -> str:
        """Put the inputs into the graph, one by one; the text of an error that has yet to be reported, or none."""
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
            raise InvalidRequest("The server is stopping and takes no more requests")
        if request.model_name != self._graph.name:
            raise InvalidRequest("Subsequent request with incorrect servable name")
        if request.model_version not in self._versions:
            raise InvalidRequest("Subsequent request with incorrect servable version")
