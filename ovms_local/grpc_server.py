"""KServe v2 over gRPC: each method decodes, calls the data plane and encodes."""
# ruff: noqa: ARG002 - the signatures are gRPC's

import asyncio
import functools
import logging
from collections.abc import Callable
from concurrent.futures import Executor

import grpc
from google.protobuf.message import DecodeError, Message
from tritonclient.grpc import service_pb2 as pb

from ovms_local import grpc_codec
from ovms_local.errors import ClientTooSlow, InvalidRequest, ServingError, describe
from ovms_local.kserve import DataPlane, InferRequest, InferStream
from ovms_local.version import SERVER_NAME, server_version

_log = logging.getLogger(__name__)

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


# Seconds: a client that reads nothing for so long, though it is there, would keep its node busy for ever.
_WRITE_TIMEOUT = 60
# Typed contents of this many bytes take long enough to decode to be kept off the event loop.
_LARGE = 1 << 18
_MAX_DETAILS = 2048


class GrpcService:
    """The methods of inference.GRPCInferenceService."""

    def __init__(self, data_plane: DataPlane, workers: Executor) -> None:
        self._data_plane = data_plane
        self._workers = workers

    def handler(self) -> grpc.GenericRpcHandler:
        """What gRPC needs to call the methods."""
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        methods = {
            "ServerLive": (unary, self._server_live, pb.ServerLiveRequest),
            "ServerReady": (unary, self._server_ready, pb.ServerReadyRequest),
            "ModelReady": (unary, self._model_ready, pb.ModelReadyRequest),
            "ServerMetadata": (unary, self._server_metadata, pb.ServerMetadataRequest),
            "ModelMetadata": (unary, self._model_metadata, pb.ModelMetadataRequest),
            "ModelInfer": (unary, self._model_infer, pb.ModelInferRequest),
            "ModelStreamInfer": (stream, self._model_stream_infer, pb.ModelInferRequest),
        }
        handlers = {
            name: kind(_told(method), functools.partial(_parse, request), _serialize)
            for name, (kind, method, request) in methods.items()
        }
        return grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)

    async def _server_live(self, request, context):
        return pb.ServerLiveResponse(live=True)

    async def _server_ready(self, request, context):
        return pb.ServerReadyResponse(ready=self._data_plane.ready)

    async def _model_ready(self, request, context):
        return pb.ModelReadyResponse(ready=self._data_plane.model_ready(_valid(request).name))

    async def _server_metadata(self, request, context):
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=server_version())

    async def _model_metadata(self, request, context):
        return grpc_codec.encode_metadata(self._data_plane.metadata(_valid(request).name))

    async def _model_infer(self, request, context):
        return await asyncio.get_running_loop().run_in_executor(self._workers, self._infer, _valid(request))

    async def _model_stream_infer(self, requests, context):
        first = await context.read()
        if first is grpc.aio.EOF:
            raise InvalidRequest("The stream was closed before its first request")
        stream = self._data_plane.open_stream(_valid(first).model_name)
        reader = asyncio.create_task(self._read(context, first, stream))
        try:
            async for output in stream:
                async with asyncio.timeout(_WRITE_TIMEOUT):
                    await context.write(grpc_codec.encode_stream_response(output))
            if reader.done():
                reader.result()
        except TimeoutError:
            raise ClientTooSlow(f"The client has read nothing for {_WRITE_TIMEOUT} s") from None
        finally:
            reader.cancel()
            stream.cancel()

    def _infer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        decode = functools.partial(grpc_codec.decode_request, request)
        return grpc_codec.encode_response(self._data_plane.infer(request.model_name, "gRPC", decode))

    async def _read(
        self, context: grpc.aio.ServicerContext, request: pb.ModelInferRequest, stream: InferStream
    ) -> None:
        where = "first request"
        try:
            while request is not grpc.aio.EOF:
                try:
                    await stream.send(await self._decode(_valid(request)))
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


def _parse(message_class: type[Message], data: bytes) -> Message | InvalidRequest:
    """The message; or, since gRPC has no status for an exception here, the error for the method to raise."""
    try:
        return message_class.FromString(data)
    except DecodeError:
        return InvalidRequest("The request is no valid protobuf message")


def _valid(request: Message | InvalidRequest) -> Message:
    if isinstance(request, InvalidRequest):
        raise request
    return request


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _told(method: Callable) -> Callable:
    """The method, with its errors told to the client as gRPC wants it."""

    async def call(request, context):
        try:
            return await method(request, context)
        except ServingError as error:
            await context.abort(error.grpc_code, _shorten(str(error)))
        except Exception as error:
            _log.error("%s failed: %s", method.__name__, describe(error), exc_info=True)
            await context.abort(ServingError.grpc_code, "Internal server error")

    return call


def _shorten(details: str) -> str:
    """What fits into a status: clients refuse larger ones, and the call then ends with an error of the client's."""
    # A byte takes up to 3 on the wire ("%E2"), and 8 KiB is what every client takes.
    start = details.encode()[:_MAX_DETAILS].decode(errors="ignore")
    return details if start == details else f"{start}... (cut)"


async def start_grpc_server(data_plane: DataPlane, workers: Executor, target: str) -> grpc.aio.Server:
    """Start to listen on `target`, `address:port`.

    Raises:
        OSError: it can't be listened on.
    """
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers([GrpcService(data_plane, workers).handler()])
    try:
        server.add_insecure_port(target)
    except RuntimeError as error:
        raise OSError(f"can't listen on {target} for gRPC") from error
    await server.start()
    return server
