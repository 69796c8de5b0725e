"""KServe v2 over gRPC: each method decodes, calls the data plane and encodes."""
# ruff: noqa: ARG002, N802 - the names and signatures are those of the service

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from concurrent.futures import Executor

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from ovms_local import grpc_codec
from ovms_local.errors import InvalidRequest, ServingError
from ovms_local.kserve import DataPlane, InferRequest, InferStream
from ovms_local.version import SERVER_NAME, server_version

_OPTIONS = (
    ("grpc.max_receive_message_length", 1 << 30),
    ("grpc.max_send_message_length", -1),
    # Two servers on one port would share the clients; the second one is to fail instead.
    ("grpc.so_reuseport", 0),
    # A client whose machine or network is gone says nothing: ask.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)


# Typed contents of this many bytes take long enough to decode to be kept off the event loop.
_LARGE = 1 << 18


class GrpcService(service_pb2_grpc.GRPCInferenceServiceServicer):
    """The methods of inference.GRPCInferenceService."""

    def __init__(self, data_plane: DataPlane, workers: Executor) -> None:
        self._data_plane = data_plane
        self._workers = workers

    async def ServerLive(self, request, context):
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request, context):
        return pb.ServerReadyResponse(ready=self._data_plane.ready)

    async def ModelReady(self, request, context):
        async with _status(context):
            return pb.ModelReadyResponse(ready=self._data_plane.model_ready(request.name))

    async def ServerMetadata(self, request, context):
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=server_version())

    async def ModelMetadata(self, request, context):
        async with _status(context):
            return grpc_codec.encode_metadata(self._data_plane.metadata(request.name))

    async def ModelInfer(self, request, context):
        async with _status(context):
            return await asyncio.get_running_loop().run_in_executor(self._workers, self._infer, request)

    async def ModelStreamInfer(self, requests, context):
        async with _status(context):
            first = await context.read()
            if first is grpc.aio.EOF:
                raise InvalidRequest("The stream was closed before its first request")
            stream = self._data_plane.open_stream(first.model_name)
            reader = asyncio.create_task(self._read(context, first, stream))
            try:
                async for output in stream:
                    await context.write(grpc_codec.encode_stream_response(output))
            finally:
                reader.cancel()
                stream.cancel()

    def _infer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        decode = functools.partial(grpc_codec.decode_request, request)
        return grpc_codec.encode_response(self._data_plane.infer(request.model_name, "gRPC", decode))

    async def _read(self, context, request: pb.ModelInferRequest, stream: InferStream) -> None:
        where = "first request"
        try:
            while request is not grpc.aio.EOF:
                try:
                    await stream.send(await self._decode(request))
                except InvalidRequest as error:
                    await stream.report(InvalidRequest(f"{error}; partial deserialization of {where}"))
                request = await context.read()
                where = "subsequent requests"
        finally:
            stream.half_close()

    async def _decode(self, request: pb.ModelInferRequest) -> InferRequest:
        if request.raw_input_contents or request.ByteSize() < _LARGE:
            return grpc_codec.decode_request(request)
        return await asyncio.get_running_loop().run_in_executor(self._workers, grpc_codec.decode_request, request)


@contextlib.asynccontextmanager
async def _status(context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
    try:
        yield
    except ServingError as error:
        await context.abort(error.grpc_code, str(error))


async def start_grpc_server(data_plane: DataPlane, workers: Executor, target: str) -> grpc.aio.Server:
    """Start to listen on `target`, `address:port`."""
    server = grpc.aio.server(options=_OPTIONS)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(GrpcService(data_plane, workers), server)
    server.add_insecure_port(target)
    await server.start()
    return server
