"""What can go wrong with a request, each error with its gRPC code and its HTTP status (as OpenVINO Model Server's)."""

from grpc import StatusCode


def describe(error: BaseException) -> str:
    """Type and message of an exception that is not ours, which may be unable to say what it is about."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


class ServingError(Exception):
    """An error that the client is told. Its text is the message, its class carries the statuses."""

    grpc_code = StatusCode.INTERNAL
    http_status = 500

    def __init__(self, message: str) -> None:
        # Half a surrogate pair can be in any text of Python's, but in none that is sent.
        super().__init__(message.encode(errors="backslashreplace").decode())


class ModelNotFound(ServingError):
    """No graph of this name is configured."""

    grpc_code = StatusCode.NOT_FOUND
    http_status = 404

    def __init__(self) -> None:
        super().__init__("Model with requested name is not found")


class GraphNotFound(ServingError):
    """No graph of the name that a request is for is configured."""

    grpc_code = StatusCode.NOT_FOUND
    http_status = 404

    def __init__(self) -> None:
        super().__init__("Mediapipe graph definition with requested name is not found")


class ModelNotAvailable(ServingError):
    """The graph failed to load or is being reloaded, or the server is stopping."""

    grpc_code = StatusCode.UNAVAILABLE

    def __init__(self) -> None:
        super().__init__("Mediapipe is not loaded yet")


class ModelRetired(ServingError):
    """The graph was taken out of the configuration."""

    grpc_code = StatusCode.NOT_FOUND
    http_status = 404

    def __init__(self) -> None:
        super().__init__("Mediapipe is retired")


class ModelNotReady(ServingError):
    """REST's answer where a graph is known and no requests to it are taken."""

    http_status = 404

    def __init__(self) -> None:
        super().__init__("Model with requested version is not loaded yet")


class ModelVersionNotFound(ServingError):
    """A REST path with a version that no model can have."""

    http_status = 404

    def __init__(self) -> None:
        super().__init__("Model with requested version is not found")


class ServerNotReady(ServingError):
    """The server is starting or stopping."""

    grpc_code = StatusCode.UNAVAILABLE
    http_status = 503

    def __init__(self) -> None:
        super().__init__("Server is not ready")


class ServerExhausted(ServingError):
    """The server has as many calls at once as it may have."""

    grpc_code = StatusCode.RESOURCE_EXHAUSTED

    def __init__(self) -> None:
        super().__init__("Server Threadpool Exhausted")


class ClientTooSlow(ServingError):
    """The client of a stream does not read what it is sent."""

    grpc_code = StatusCode.ABORTED


class InvalidRequest(ServingError):
    """The request is malformed or does not fit the graph."""

    grpc_code = StatusCode.INVALID_ARGUMENT
    http_status = 400


class MalformedTimestamp(InvalidRequest):
    """A request sets a timestamp of another type than int64, or one that no packet can have."""

    grpc_code = StatusCode.UNKNOWN
    http_status = 500

    def __init__(self, details: str) -> None:
        super().__init__(f"Malformed packet timestamp - {details}")


class UnsupportedParameter(ServingError):
    """A parameter of a request has a type that the server does not take."""

    grpc_code = StatusCode.UNKNOWN

    def __init__(self) -> None:
        super().__init__(
            "Functionality not implemented - Handling parameters of other types than: bool, string, int64 "
            "is not supported"
        )


class StreamNeverBegan(ServingError):
    """A stream ended before its first request."""

    grpc_code = StatusCode.UNKNOWN

    def __init__(self) -> None:
        super().__init__("Client disconnected during reading first streaming request")


class FailedPrecondition(ServingError):
    """The graph can't be started with the request's parameters."""

    grpc_code = StatusCode.FAILED_PRECONDITION

    def __init__(self, details: str) -> None:
        super().__init__(f"Failed to initialize mediapipe graph - {details}")


class ExecutionFailed(InvalidRequest):
    """The graph failed while it ran."""

    def __init__(self, details: str) -> None:
        super().__init__(f"Mediapipe execution failed. MP status - {details}")


class TimestampMismatch(ExecutionFailed):
    """A packet for an input of the graph has a timestamp that does not grow."""

    def __init__(self, stream: str, lowest: float, timestamp: int) -> None:
        super().__init__(
            "INVALID_ARGUMENT: Graph has errors: \nPacket timestamp mismatch on a calculator receiving from stream "
            f'"{stream}". Current minimum expected timestamp is {lowest} but received {timestamp}.'
        )


class NotJson(InvalidRequest):
    """The body of a REST request is not JSON."""

    http_status = 412


class ConfigNotReloaded(ServingError):
    """A config.json that is none was to be loaded over REST."""

    http_status = 412

    def __init__(self) -> None:
        super().__init__("Reloading config file failed. Check server logs for more info.")


class UnknownPath(InvalidRequest):
    """A REST path that names nothing."""

    def __init__(self) -> None:
        super().__init__("Invalid request URL")


class WrongMethod(InvalidRequest):
    """A known REST path asked with another method than its own."""

    http_status = 406

    def __init__(self) -> None:
        super().__init__("Unsupported method")
