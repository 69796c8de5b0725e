"""What a client is told; anything else that goes wrong is the server's own fault."""

import logging

logger = logging.getLogger(__name__)


class RequestError(ValueError):
    """The request can't be served as it is; the message says what is wrong with it and what to do."""


class BusyError(Exception):
    """There is no place for the request now; the client may try again later."""


def client_message(error: Exception) -> str:
    """What to tell a client that can't be sent an exception; the server's own faults go to the log with their cause."""
    if isinstance(error, RequestError | BusyError):
        logger.warning("request refused: %s", error)
        return str(error)
    logger.error("request failed", exc_info=error)
    return f"the server failed: {type(error).__name__}: {error}"


def first_line(error: Exception) -> str:
    """What another library's error says, in one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
