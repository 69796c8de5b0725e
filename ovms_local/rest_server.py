"""KServe v2 over REST: each route decodes, calls the data plane and encodes."""

import asyncio
import contextlib
import json
import logging
from concurrent.futures import Executor
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from ovms_local import rest_codec
from ovms_local.errors import (
    InvalidRequest,
    ModelNotAvailable,
    ServerNotReady,
    ServingError,
    UnknownPath,
    WrongMethod,
    describe,
)
from ovms_local.kserve import DataPlane
from ovms_local.version import SERVER_NAME, server_version

_log = logging.getLogger(__name__)

_HEADER_LENGTH = "Inference-Header-Content-Length"
_MAX_BODY = 1 << 30
# Seconds: a client that keeps its connection must not find it closed when it comes back a little later, but who sends
# nothing for so long, not even the rest of a request, has left or means no good.
_KEEP_ALIVE = 60
_OPENAPI = Path(__file__).with_name("openapi.json")


class RestApi:
    """The routes."""

    def __init__(self, data_plane: DataPlane, workers: Executor, serve_metrics: bool) -> None:
        self._data_plane = data_plane
        self._workers = workers
        models = ("/v2/models/{model}", "/v2/models/{model}/versions/{version:int}")
        routes = [
            Route("/v2", self.server_metadata),
            Route("/v2/openapi.json", self.openapi),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            *(Route(model, self.model_metadata) for model in models),
            *(Route(f"{model}/ready", self.model_ready) for model in models),
            *(Route(f"{model}/infer", self.infer, methods=["POST"]) for model in models),
        ]
        if serve_metrics:
            routes.append(Route("/metrics", self.metrics))
        for route in routes:
            route.methods.discard("HEAD")  # starlette adds it to GET; the real server does not know it
        handlers = {ServingError: _error_response, HTTPException: _routing_error, Exception: _unexpected_error}
        self.app = Starlette(routes=routes, exception_handlers=handlers)
        self.app.router.redirect_slashes = False

    async def live(self, request: Request) -> Response:  # noqa: ARG002
        return Response()

    async def ready(self, request: Request) -> Response:  # noqa: ARG002
        if not self._data_plane.ready:
            raise ServerNotReady
        return Response()

    async def server_metadata(self, request: Request) -> Response:  # noqa: ARG002
        return _json(json.dumps({"name": SERVER_NAME, "version": server_version()}).encode())

    async def openapi(self, request: Request) -> Response:  # noqa: ARG002
        return _json(_OPENAPI.read_bytes())

    async def metrics(self, request: Request) -> Response:  # noqa: ARG002
        return Response(self._data_plane.metrics.text(), media_type="text/plain; version=0.0.4")

    async def model_metadata(self, request: Request) -> Response:
        with _not_found_if_unavailable():
            return _json(rest_codec.encode_metadata(self._data_plane.metadata(request.path_params["model"])))

    async def model_ready(self, request: Request) -> Response:
        with _not_found_if_unavailable():
            if not self._data_plane.model_ready(request.path_params["model"]):
                raise ModelNotAvailable
        return Response()

    async def infer(self, request: Request) -> Response:
        body = await _read_body(request)
        work = (self._infer, request.path_params["model"], body, request.headers.get(_HEADER_LENGTH))
        return await asyncio.get_running_loop().run_in_executor(self._workers, *work)

    def _infer(self, model_name: str, body: bytes, header_length: str | None) -> Response:
        request, requested = rest_codec.decode_request(model_name, body, header_length)
        response = self._data_plane.infer(request, "REST")
        content, json_length = rest_codec.encode_response(response, requested)
        if json_length is None:
            return _json(content)
        headers = {_HEADER_LENGTH: str(json_length)}
        return Response(content, media_type="application/octet-stream", headers=headers)


class _Connection(H11Protocol):
    """uvicorn ends a connection that stays idle behind an answer; this one ends, too, where no whole head of a request
    comes: nothing at all, or a byte now and then.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Tell of a request that is no HTTP in the same form as of other errors."""
        super().send_400_response(json.dumps({"error": msg}))

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        self._timer = self.loop.call_later(_KEEP_ALIVE, self._check, self.cycle)

    def _check(self, latest_request: object) -> None:
        answered = self.cycle is None or self.cycle.response_complete
        if answered and self.cycle is latest_request:
            self.timeout_keep_alive_handler()
        else:
            self._watch()


class RestServer(uvicorn.Server):
    """uvicorn within an event loop that is not its own: signals are not its business."""

    def __init__(self, api: RestApi, shutdown_timeout: float) -> None:
        config = uvicorn.Config(
            api.app,
            http=_Connection,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=shutdown_timeout,
        )
        super().__init__(config)

    def capture_signals(self) -> contextlib.AbstractContextManager:
        """Leave the signals alone."""
        return contextlib.nullcontext()


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")


async def _read_body(request: Request) -> bytes:
    chunks, size = [], int(request.headers.get("Content-Length", 0))
    loop = asyncio.get_running_loop()
    try:
        if size <= _MAX_BODY:
            size = 0
            async with asyncio.timeout(_KEEP_ALIVE) as patience:
                async for chunk in request.stream():
                    patience.reschedule(loop.time() + _KEEP_ALIVE)
                    size += len(chunk)
                    if size > _MAX_BODY:
                        break
                    chunks.append(chunk)
    except ClientDisconnect:
        raise InvalidRequest("The client left before the end of its request") from None
    except TimeoutError:
        raise InvalidRequest(f"The rest of the request did not come within {_KEEP_ALIVE} s") from None
    if size > _MAX_BODY:
        raise InvalidRequest(f"The body is larger than {_MAX_BODY} bytes")
    return b"".join(chunks)


@contextlib.contextmanager
def _not_found_if_unavailable():
    try:
        yield
    except ModelNotAvailable:
        raise ModelNotAvailable(http_status=404) from None


async def _error_response(request: Request, error: ServingError) -> Response:  # noqa: ARG001
    return _json(json.dumps({"error": str(error)}).encode(), error.http_status)


async def _routing_error(request: Request, error: HTTPException) -> Response:
    return await _error_response(request, WrongMethod() if error.status_code == 405 else UnknownPath())


async def _unexpected_error(request: Request, error: Exception) -> Response:
    _log.error("%s failed: %s", request.url.path, describe(error), exc_info=error)
    return await _error_response(request, ServingError("Internal server error"))
