"""The errors of requests, each with its gRPC code and HTTP status, the same as in OpenVINO Model Server."""

from grpc import StatusCode


def describe(error: BaseException) -> str:
    """Return type and message of a foreign exception, whose str() may itself fail."""
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:  # if it escaped, it would end the server
        return type(error).__name__


class ServingError(Exception):
    """An error that is reported to the client: its text is the message, its class defines the statuses."""

    grpc_code = StatusCode.INTERNAL
    http_status = 500

    def __init__(self, message: str) -> None:
        # Python strings may contain unpaired surrogates, which can't be sent.
        super().__init__(message.encode(errors="backslashreplace").decode())


class ModelNotFound(ServingError):
    """No graph with this name is configured."""

    grpc_code = StatusCode.NOT_FOUND
    http_status = 404

    def __init__(self) -> None:
        super().__init__("Model with requested name is not found")


class GraphNotFound(ServingError):
    """No graph with the name in an inference request is configured."""

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
    """The graph was removed from the configuration."""

    grpc_code = StatusCode.NOT_FOUND
    http_status = 404

    def __init__(self) -> None:
        super().__init__("Mediapipe is retired")


class ModelNotReady(ServingError):
    """REST's answer if a graph is known but does not accept requests."""

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
    """The server already has the maximum number of simultaneous calls."""

    grpc_code = StatusCode.RESOURCE_EXHAUSTED

    def __init__(self) -> None:
        super().__init__("Server Threadpool Exhausted")


class ClientTooSlow(ServingError):
    """The client of a stream does not read its responses."""

    grpc_code = StatusCode.ABORTED


class InvalidRequest(ServingError):
    """The request is malformed or does not fit the graph."""

    grpc_code = StatusCode.INVALID_ARGUMENT
    http_status = 400


class MalformedTimestamp(InvalidRequest):
    """A request sets a timestamp that is not an int64 or is out of range for packets."""

    grpc_code = StatusCode.UNKNOWN
    http_status = 500

    def __init__(self, details: str) -> None:
        super().__init__(f"Malformed packet timestamp - {details}")


class UnsupportedParameter(ServingError):
    """A request parameter has a type that the server does not support."""

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
    """The graph failed while running."""

    def __init__(self, details: str) -> None:
        super().__init__(f"Mediapipe execution failed. MP status - {details}")


class TimestampMismatch(ExecutionFailed):
    """The timestamps at an input of the graph do not increase."""

    def __init__(self, stream: str, lowest: float, timestamp: int) -> None:
        super().__init__(
            "INVALID_ARGUMENT: Graph has errors: \nPacket timestamp mismatch on a calculator receiving from stream "
            f'"{stream}". Current minimum expected timestamp is {lowest} but received {timestamp}.'
        )


class NotJson(InvalidRequest):
    """The body of a REST request is not JSON."""

    http_status = 412


class ConfigNotReloaded(ServingError):
    """A reload over REST failed because config.json is invalid."""

    http_status = 412

    def __init__(self) -> None:
        super().__init__("Reloading config file failed. Check server logs for more info.")


class UnknownPath(InvalidRequest):
    """An unknown REST path."""

    def __init__(self) -> None:
        super().__init__("Invalid request URL")


class WrongMethod(InvalidRequest):
    """A known REST path was requested with an unsupported method."""

    http_status = 406

    def __init__(self) -> None:
        super().__init__("Unsupported method")
