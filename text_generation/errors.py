"""What can be wrong with a request, and how it is told and logged; all else that goes wrong is the server's fault."""

import logging

logger = logging.getLogger(__name__)


class RequestError(ValueError):
    """The request can't be served as it is; the message says what is wrong with it and what to do.

    `log_message` is the message for the log, where it must not quote the request as the one for the client does.
    """

    kind = "bad_request"

    def __init__(self, message: str, log_message: str | None = None):
        super().__init__(message)
        self.log_message = message if log_message is None else log_message


class TooLongError(RequestError):
    """The request is longer than the model's context or a limit allows."""

    kind = "too_long"


class BusyError(Exception):
    """There is no place for the request now; the client may try again later."""

    kind = "busy"


# All kinds of errors; "internal" is the server's fault.
ERROR_KINDS = (RequestError.kind, TooLongError.kind, BusyError.kind, "internal")


def error_kind(error: Exception) -> str:
    """Which of ERROR_KINDS an error is."""
    return getattr(error, "kind", "internal")


def client_message(error: Exception) -> str:
    """What to tell the client of an error: what is wrong with the request, or that the server failed, and how."""
    if isinstance(error, RequestError | BusyError):
        return str(error)
    return f"the server failed: {type(error).__name__}: {error}"


def log_failure(error: Exception, request_id: str) -> None:
    """One line in the log for a request that failed; the server's own faults with a traceback at DEBUG.

    The model server itself shows the cause at its own DEBUG level only.
    """
    extra = {"fields": {"request_id": request_id}}
    if isinstance(error, RequestError | BusyError):
        logger.warning("request refused: %s", getattr(error, "log_message", error), extra=extra)
    else:
        logger.error("request failed: %s: %s", type(error).__name__, first_line(error), extra=extra)
        logger.debug("traceback of the failed request", exc_info=error, extra=extra)


def first_line(error: Exception) -> str:
    """What another library's error says, in one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
