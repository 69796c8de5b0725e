"""KServe v2 over REST: each route decodes, calls the data plane and encodes."""

import asyncio
import contextlib
import json
from concurrent.futures import Executor

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ovms_local import rest_codec
from ovms_local.errors import ModelNotAvailable, ServerNotReady, ServingError, UnknownPath, WrongMethod
from ovms_local.kserve import DataPlane
from ovms_local.version import SERVER_NAME, server_version

_HEADER_LENGTH = "Inference-Header-Content-Length"


def make_app(data_plane: DataPlane, workers: Executor) -> Starlette:
    """The ASGI application with the v2 routes."""
    api = _Api(data_plane, workers)
    models = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
    routes = [
        Route("/v2", api.server_metadata),
        Route("/v2/health/live", api.live),
        Route("/v2/health/ready", api.ready),
        *(Route(model, api.model_metadata) for model in models),
        *(Route(f"{model}/ready", api.model_ready) for model in models),
        *(Route(f"{model}/infer", api.infer, methods=["POST"]) for model in models),
    ]
    handlers = {ServingError: _error_response, HTTPException: _routing_error}
    return Starlette(routes=routes, exception_handlers=handlers)


class _Api:
    def __init__(self, data_plane: DataPlane, workers: Executor) -> None:
        self._data_plane = data_plane
        self._workers = workers

    async def live(self, request: Request) -> Response:  # noqa: ARG002
        return Response()

    async def ready(self, request: Request) -> Response:  # noqa: ARG002
        if not self._data_plane.ready:
            raise ServerNotReady
        return Response()

    async def server_metadata(self, request: Request) -> Response:  # noqa: ARG002
        return _json(json.dumps({"name": SERVER_NAME, "version": server_version()}).encode())

    async def model_metadata(self, request: Request) -> Response:
        try:
            return _json(rest_codec.encode_metadata(self._data_plane.metadata(request.path_params["model"])))
        except ModelNotAvailable:
            raise ModelNotAvailable(http_status=404) from None

    async def model_ready(self, request: Request) -> Response:
        if not self._data_plane.model_ready(request.path_params["model"]):
            raise ModelNotAvailable(http_status=404)
        return Response()

    async def infer(self, request: Request) -> Response:
        body = await request.body()
        work = (self._infer, request.path_params["model"], body, request.headers.get(_HEADER_LENGTH))
        return await asyncio.get_running_loop().run_in_executor(self._workers, *work)

    def _infer(self, model_name: str, body: bytes, header_length: str | None) -> Response:
        request = rest_codec.decode_request(model_name, body, header_length)
        body, json_length = rest_codec.encode_response(self._data_plane.infer(request.request), request)
        if json_length is None:
            return _json(body)
        headers = {_HEADER_LENGTH: str(json_length)}
        return Response(body, media_type="application/octet-stream", headers=headers)


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")


async def _error_response(request: Request, error: ServingError) -> Response:  # noqa: ARG001
    return _json(json.dumps({"error": str(error)}).encode(), error.http_status)


async def _routing_error(request: Request, error: HTTPException) -> Response:
    return await _error_response(request, WrongMethod() if error.status_code == 405 else UnknownPath())


class RestServer(uvicorn.Server):
    """uvicorn within our own event loop: signals are not its business."""

    def __init__(self, app: Starlette) -> None:
        super().__init__(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))

    def capture_signals(self) -> contextlib.AbstractContextManager:
        """Leave the signals alone."""
        return contextlib.nullcontext()
