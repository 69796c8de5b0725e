"""Errors that a request can cause, and how they are reported and logged. Any other error is the server's fault."""

import logging

from text_generation.wording import one_line

logger = logging.getLogger(__name__)


class RequestError(ValueError):
    """The request can't be served; the message says in one line what is wrong with it and what to do.

    `log_message` replaces the message in the log, which must not quote the request as the client's message may.
    """

    kind = "bad_request"

    def __init__(self, message: str, log_message: str | None = None):
        super().__init__(one_line(message))
        self.log_message = one_line(message if log_message is None else log_message)


class TooLongError(RequestError):
    """The request is longer than the model's context or a limit allows. `problem` is the message without the advice."""

    kind = "too_long"

    def __init__(self, problem: str, advice: str):
        super().__init__(f"{problem}: {advice}")
        self.problem = problem


class BusyError(Exception):
    """The server has no place for the request now; the client may try again later."""

    kind = "busy"


# All kinds of errors; "internal" is the server's fault.
ERROR_KINDS = (RequestError.kind, TooLongError.kind, BusyError.kind, "internal")


def error_kind(error: Exception) -> str:
    """Which of ERROR_KINDS an error is."""
    return getattr(error, "kind", "internal")


def client_message(error: Exception) -> str:
    """Return the error message for the client: what is wrong with the request, or how the server failed."""
    if isinstance(error, RequestError | BusyError):
        return str(error)
    return one_line(f"the server failed: {type(error).__name__}: {error}")


def log_failure(error: Exception, request_id: str) -> None:
    """Log one line for a failed request and, at DEBUG, a traceback if the fault is the server's.

    The model server itself logs the cause only at its own DEBUG level.
    """
    extra = {"fields": {"request_id": request_id}}
    if isinstance(error, RequestError | BusyError):
        logger.warning("request refused: %s", getattr(error, "log_message", error), extra=extra)
    else:
        logger.error("request failed: %s: %s", type(error).__name__, one_line(first_line(error)), extra=extra)
        logger.debug("traceback of the failed request", exc_info=error, extra=extra)


def first_line(error: Exception) -> str:
    """Return the first line of another library's error message."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
