"""KServe v2 over REST: each route decodes, calls the data plane and encodes."""

import asyncio
import contextlib
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from ovms_local import rest_codec
from ovms_local.configuration import Configuration
from ovms_local.errors import (
    ConfigNotReloaded,
    InvalidRequest,
    ModelNotReady,
    ModelVersionNotFound,
    ServerNotReady,
    ServingError,
    UnknownPath,
    WrongMethod,
    describe,
)
from ovms_local.graphs import Graphs, GraphState
from ovms_local.kserve import DataPlane
from ovms_local.server_config import ServerConfigError, ServerConfigMissing
from ovms_local.version import SERVER_NAME, server_version

_log = logging.getLogger(__name__)

_HEADER_LENGTH = "Inference-Header-Content-Length"
_MAX_BODY = 1 << 30
# Seconds. Long enough for a client that reuses its connection a little later; a client that sends nothing for longer,
# not even the rest of a request, has left or is malicious.
_KEEP_ALIVE = 60
_OPENAPI = Path(__file__).with_name("openapi.json")
# Groups: the model's name, and its version, if any.
_MODEL = r"/v2/models/([^/]+)(?:/versions/0*([0-9]+))?"
_MODELS = r"/(?:v3|v1|v3/v1)/models"
_MAX_VERSION = str(2**63 - 1)

_Handler = Callable[..., Awaitable[Response]]
_T = TypeVar("_T")


class RestApi:
    """The routes, as an ASGI application."""

    def __init__(
        self,
        data_plane: DataPlane,
        graphs: Graphs,
        configuration: Configuration,
        workers: Executor,
        serve_metrics: bool,
    ) -> None:
        self._data_plane = data_plane
        self._graphs = graphs
        self._configuration = configuration
        self._workers = workers
        routes: list[tuple[str, str, _Handler]] = [
            ("GET", "/v2", self.server_metadata),
            ("GET", "/v2/openapi.json", self.openapi),
            ("GET", "/v2/health/live", self.live),
            ("GET", "/v2/health/ready", self.ready),
            ("GET", f"{_MODEL}/?", self.model_metadata),
            ("GET", f"{_MODEL}/ready", self.model_ready),
            ("POST", f"{_MODEL}/infer", self.infer),
            ("GET", _MODELS, self.list_models),
            ("GET", f"{_MODELS}/(.+)", self.retrieve_model),
            ("GET", "/v1/config", self.config_status),
            ("POST", "/v1/config/reload", self.config_reload),
            ("GET", "/metrics", self.metrics if serve_metrics else self.no_metrics),
        ]
        self._routes = [(method, re.compile(path), handler) for method, path, handler in routes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        request = Request(scope, receive)
        try:
            response = await self._respond(request)
        except ServingError as error:
            response = _error_response(error)
        except Exception as error:
            _log.error("%s failed: %s", request.url.path, describe(error), exc_info=error)
            response = _error_response(ServingError("Internal server error"))
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            return _json(b"")
        if request.method not in ("GET", "POST"):
            raise WrongMethod
        # Not decoded, since a slash in a model's name is written %2F.
        path = request.scope["raw_path"].decode("latin-1")
        if ".." in path.split("/"):
            raise UnknownPath
        known = False
        for method, pattern, handler in self._routes:
            if match := pattern.fullmatch(path):
                if method == request.method:
                    return await handler(request, *match.groups())
                known = True
        raise WrongMethod if known else UnknownPath

    async def live(self, request: Request) -> Response:  # noqa: ARG002
        return _json(b"")

    async def ready(self, request: Request) -> Response:  # noqa: ARG002
        if not self._data_plane.ready:
            raise ServerNotReady
        return _json(b"")

    async def server_metadata(self, request: Request) -> Response:  # noqa: ARG002
        return _json(json.dumps({"name": SERVER_NAME, "version": server_version()}).encode())

    async def openapi(self, request: Request) -> Response:  # noqa: ARG002
        return _json(_OPENAPI.read_bytes())

    async def metrics(self, request: Request) -> Response:  # noqa: ARG002
        return Response(self._data_plane.metrics.text(), media_type="text/plain; version=0.0.4")

    async def no_metrics(self, request: Request) -> Response:  # noqa: ARG002
        raise UnknownPath

    async def model_metadata(self, request: Request, model: str, version: str | None) -> Response:  # noqa: ARG002
        _check_version(version)
        return _json(rest_codec.encode_metadata(self._data_plane.metadata(unquote(model), "REST")))

    async def model_ready(self, request: Request, model: str, version: str | None) -> Response:  # noqa: ARG002
        _check_version(version)
        if not self._data_plane.model_ready(unquote(model), "REST"):
            raise ModelNotReady
        return _json(b"")

    async def infer(self, request: Request, model: str, version: str | None) -> Response:
        _check_version(version)
        body = await self._read_body(request)
        return await self._on_worker(self._infer, unquote(model), body, request.headers.get(_HEADER_LENGTH))

    def _infer(self, model: str, body: bytes, header_length: str | None) -> Response:
        request, requested = rest_codec.decode_request(model, body, header_length)
        content, json_length = rest_codec.encode_response(self._data_plane.infer(request, "REST"), requested)
        headers = {} if json_length is None else {_HEADER_LENGTH: str(json_length)}
        return _json(content, headers=headers)

    async def list_models(self, request: Request) -> Response:  # noqa: ARG002
        available = [name for name, state in self._graphs.states().items() if state is GraphState.AVAILABLE]
        return _json(json.dumps({"object": "list", "data": [_model(name) for name in available]}).encode())

    async def retrieve_model(self, request: Request, model: str) -> Response:  # noqa: ARG002
        if self._graphs.states().get(unquote(model)) is not GraphState.AVAILABLE:
            raise ServingError("Model not found")
        return _json(json.dumps(_model(unquote(model))).encode())

    async def config_status(self, request: Request) -> Response:  # noqa: ARG002
        return _json(rest_codec.encode_states(self._graphs.states()))

    async def config_reload(self, request: Request) -> Response:
        try:
            await self._on_worker(self._configuration.apply)
        except ServerConfigMissing:
            raise ServingError("Config file not found or cannot open.") from None
        except ServerConfigError:
            raise ConfigNotReloaded from None
        return await self.config_status(request)

    async def _read_body(self, request: Request) -> bytes:
        received, size = [], int(request.headers.get("Content-Length", 0))
        try:
            if size <= _MAX_BODY:
                size, chunks = 0, request.stream()
                while size <= _MAX_BODY:
                    chunk = await self._data_plane.receive(lambda: anext(chunks, None), _KEEP_ALIVE)
                    if chunk is None:
                        break
                    size += len(chunk)
                    received.append(chunk)
        except ClientDisconnect:
            raise InvalidRequest("The client left before the end of its request") from None
        except TimeoutError:
            raise InvalidRequest(f"The rest of the request did not arrive within {_KEEP_ALIVE} s") from None
        if size > _MAX_BODY:
            raise InvalidRequest(f"The body is larger than {_MAX_BODY} bytes")
        return b"".join(received)

    async def _on_worker(self, work: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, work, *arguments)


class _Connection(H11Protocol):
    """uvicorn closes a connection that stays idle after a response. This class also closes it if the client does not
    send a complete request head in time, whether it sends nothing at all or a byte now and then.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in H11Protocol
        super().connection_made(transport)
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Report a request that is not HTTP in the same form as other errors."""
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
    """uvicorn in an event loop that it does not own, so it must not handle signals."""

    def __init__(self, api: RestApi, headers: tuple[tuple[str, str], ...], shutdown_timeout: float) -> None:
        """Serve `api`, adding these headers to every response."""
        config = uvicorn.Config(
            api,
            http=_Connection,
            ws="none",
            headers=list(headers),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=shutdown_timeout,  # type: ignore[arg-type]  # asyncio accepts fractions
        )
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do not handle signals."""
        yield


def _json(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, headers, media_type="application/json")


def _error_response(error: ServingError) -> Response:
    return _json(json.dumps({"error": str(error)}).encode(), error.http_status)


def _check_version(version: str | None) -> None:
    """Reject a version that is too large; graphs have no versions, so any other is accepted."""
    if version and (len(version), version) > (len(_MAX_VERSION), _MAX_VERSION):
        raise ModelVersionNotFound


def _model(name: str) -> dict:
    return {"id": name, "object": "model", "created": int(time.time()), "owned_by": "OVMS"}
