"""Logs each record as one line on standard output, as usual for containers."""

import io
import logging
import sys
from pathlib import Path

_TRACE = 5
LEVELS = ("ERROR", "WARNING", "INFO", "DEBUG", "TRACE")


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace("\r", "\\r").replace("\n", "\\n")


def set_up_logging(level: str, file: Path | None) -> None:
    """Log this level (one of LEVELS) and above, including servables' own records; if `file` is given, there as well.

    Raises:
        OSError: the file can't be written.
    """
    logging.addLevelName(_TRACE, "TRACE")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # rather than lose a line
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if file:
        try:
            handlers.append(logging.FileHandler(file, encoding="utf-8", errors="backslashreplace"))
        except OSError as error:
            raise OSError(f"can't write the log {file}: {error.strerror}") from error
    for handler in handlers:
        handler.setFormatter(
            _OneLine("%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")
        )
    logging.basicConfig(level=logging.WARNING, handlers=handlers)
    logging.getLogger("ovms_local").setLevel(level)
    # These log a traceback for each client that disconnects mid-request; our own errors are already logged.
    for library in ("grpc", "uvicorn", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
