"""KServe v2 over gRPC: each method decodes, calls the data plane and encodes."""
# ruff: noqa: ARG002, N802 - the signatures are gRPC's

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from ovms_local import grpc_codec
from ovms_local.errors import ClientTooSlow, ServerExhausted, ServingError, StreamNeverBegan, describe
from ovms_local.infer_stream import InferStream
from ovms_local.kserve import DataPlane
from ovms_local.version import SERVER_NAME, server_version

_log = logging.getLogger(__name__)

_OPTIONS = {
    "grpc.max_receive_message_length": 1 << 30,
    "grpc.max_send_message_length": -1,
    # Otherwise two servers on one port would share the clients; the second one should fail.
    "grpc.so_reuseport": 0,
    # Ping clients, to detect those whose machine or network is gone.
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_timeout_ms": 20_000,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.http2.min_ping_interval_without_data_ms": 5_000,
}


# Seconds. A connected client that does not read would otherwise keep its node busy for ever.
_WRITE_TIMEOUT = 60
# Typed contents of this size in bytes take too long to decode on the event loop.
_LARGE = 1 << 18
_MAX_DETAILS = 2048

_Method = Callable[["GrpcService", Any, grpc.aio.ServicerContext], Awaitable[Message | None]]


def _call(method: _Method) -> _Method:
    """Count the calls of a method that are under way, and report its errors to the client as gRPC statuses."""

    @functools.wraps(method)
    async def call(self: "GrpcService", request: Any, context: grpc.aio.ServicerContext) -> Message | None:
        self.calls += 1
        try:
            if self.max_calls is not None and self.calls > self.max_calls:
                raise ServerExhausted
            return await method(self, request, context)
        except ServingError as error:
            failure = error
        except Exception as error:
            _log.error("%s failed: %s", method.__name__, describe(error), exc_info=True)
            failure = ServingError("Internal server error")
        finally:
            self.calls -= 1
        await context.abort(failure.grpc_code, _details(failure))
        return None  # never: abort raises

    return call


def _details(error: ServingError) -> str:
    """Return the text for a status, truncated because clients fail with an error of their own if it is too long."""
    if error.grpc_code is grpc.StatusCode.UNKNOWN:
        return "Unknown error"
    details = str(error)
    # Each byte takes up to 3 bytes on the wire ("%E2"), and every client accepts 8 KiB.
    start = details.encode()[:_MAX_DETAILS].decode(errors="ignore")
    return details if start == details else f"{start}... (cut)"


class GrpcService(service_pb2_grpc.GRPCInferenceServiceServicer):
    """The methods of inference.GRPCInferenceService."""

    def __init__(self, data_plane: DataPlane, workers: Executor, max_calls: int | None) -> None:
        """`max_calls` is the maximum number of calls and open streams; None for no limit."""
        self._data_plane = data_plane
        self._workers = workers
        self.max_calls = max_calls
        self.calls = 0

    @_call
    async def ServerLive(
        self, request: pb.ServerLiveRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    @_call
    async def ServerReady(
        self, request: pb.ServerReadyRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._data_plane.ready)

    @_call
    async def ModelReady(
        self, request: pb.ModelReadyRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=self._data_plane.model_ready(request.name, "gRPC"))

    @_call
    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=server_version())

    @_call
    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelMetadataResponse:
        return grpc_codec.encode_metadata(self._data_plane.metadata(request.name, "gRPC"))

    @_call
    async def ModelInfer(
        self, request: pb.ModelInferRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelInferResponse:
        return await asyncio.get_running_loop().run_in_executor(self._workers, self._infer, request)

    @_call
    async def ModelStreamInfer(self, requests: object, context: grpc.aio.ServicerContext) -> None:
        first = await self._data_plane.receive(lambda: _next_message(context))
        if first is None:
            raise StreamNeverBegan
        async with self._data_plane.stream(grpc_codec.decode_request(first)) as stream:
            reader = asyncio.create_task(_read(context, first, stream))
            try:
                async for output in stream:
                    async with asyncio.timeout(_WRITE_TIMEOUT):
                        await context.write(grpc_codec.encode_stream_response(output))
                if reader.done():
                    reader.result()
            except TimeoutError:
                raise ClientTooSlow(f"The client has not read anything for {_WRITE_TIMEOUT} s") from None
            finally:
                reader.cancel()

    def _infer(self, message: pb.ModelInferRequest) -> pb.ModelInferResponse:
        request = grpc_codec.decode_request(message)
        return grpc_codec.encode_response(self._data_plane.infer(request, "gRPC"))


async def _next_message(context: grpc.aio.ServicerContext) -> pb.ModelInferRequest | None:
    """Return a stream's next message; None at its end or, as in gRPC for C++, at a broken message."""
    try:
        message = await context.read()
    except DecodeError:
        return None
    return None if message is grpc.aio.EOF else message


async def _read(context: grpc.aio.ServicerContext, first: pb.ModelInferRequest, stream: InferStream) -> None:
    message: pb.ModelInferRequest | None = first
    try:
        while message is not None:
            large = not message.raw_input_contents and message.ByteSize() >= _LARGE
            await stream.send(grpc_codec.decode_request(message), large)
            message = await _next_message(context)
    finally:
        stream.half_close()


async def start_grpc_server(
    data_plane: DataPlane,
    workers: Executor,
    targets: Sequence[str],
    channel_arguments: Mapping[str, str | int],
    max_threads: int | None,
) -> grpc.aio.Server:
    """Start to listen.

    Args:
        data_plane: handles the requests.
        workers: threads on which nodes run.
        targets: addresses to listen on, each `address:port`.
        channel_arguments: gRPC options, which override those set here.
        max_threads: maximum number of calls and open streams; None for no limit.

    Raises:
        OSError: one of the targets can't be listened on.
    """
    server = grpc.aio.server(options=tuple((_OPTIONS | dict(channel_arguments)).items()))
    service = GrpcService(data_plane, workers, max_threads)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(service, server)
    for target in targets:
        try:
            server.add_insecure_port(target)
        except RuntimeError as error:
            raise OSError(f"can't listen on {target} for gRPC") from error
    await server.start()
    return server
