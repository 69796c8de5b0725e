"""KServe v2 over gRPC: each method decodes, calls the data plane and encodes."""
# ruff: noqa: ARG002, N802 - the names and signatures are those of the service

import asyncio
import contextlib
import functools
from concurrent.futures import Executor

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from ovms_local import grpc_codec
from ovms_local.errors import ServingError
from ovms_local.kserve import DataPlane, InferStream
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
            stream = self._data_plane.open_stream(first.model_name)
            reader = asyncio.create_task(_read(context, first, stream))
            try:
                async for output in stream:
                    await context.write(grpc_codec.encode_stream_response(output))
            finally:
                reader.cancel()
                stream.cancel()

    def _infer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        return grpc_codec.encode_response(self._data_plane.infer(grpc_codec.decode_request(request)))


async def _read(context: grpc.aio.ServicerContext, request: pb.ModelInferRequest, stream: InferStream) -> None:
    while request is not grpc.aio.EOF:
        await stream.send(functools.partial(grpc_codec.decode_request, request))
        request = await context.read()
    stream.half_close()


@contextlib.asynccontextmanager
async def _status(context: grpc.aio.ServicerContext):
    try:
        yield
    except ServingError as error:
        await context.abort(error.grpc_code, str(error))


async def start_grpc_server(data_plane: DataPlane, workers: Executor, address: str, port: int) -> grpc.aio.Server:
    """Start to listen.

    Raises:
        OSError: the address can't be listened on.
    """
    server = grpc.aio.server(options=_OPTIONS)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(GrpcService(data_plane, workers), server)
    try:
        server.add_insecure_port(f"{address}:{port}")
    except RuntimeError as error:
        raise OSError(f"can't listen on {address}:{port} for gRPC: is the port in use?") from error
    await server.start()
    return server
