"""What can be wrong with a request, and how it is told and logged; all else that goes wrong is the server's fault."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


class RequestError(ValueError):
    """The request can't be served as it is; the message says what is wrong with it and what to do."""


class TooLongError(RequestError):
    """The request is longer than the model's context or a limit allows."""


class BusyError(Exception):
    """There is no place for the request now; the client may try again later."""


def client_message(error: Exception) -> str:
    """What to tell the client of an error: what is wrong with the request, or that the server failed, and how."""
    if isinstance(error, RequestError | BusyError):
        return str(error)
    return f"the server failed: {type(error).__name__}: {error}"


def log_failure(error: Exception) -> None:
    """One line in the log for a request that failed; the server's own faults with a traceback at DEBUG.

    The model server itself shows the cause at its own DEBUG level only.
    """
    if isinstance(error, RequestError | BusyError):
        logger.warning("request refused: %s", error)
    else:
        logger.error("request failed: %s: %s", type(error).__name__, first_line(error))
        logger.debug("traceback of the failed request", exc_info=error)


@contextmanager
def logged_failures() -> Iterator[None]:
    """Log what goes wrong in the block, and raise it."""
    try:
        yield
    except Exception as error:
        log_failure(error)
        raise


def first_line(error: Exception) -> str:
    """What another library's error says, in one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
