"""One line a record, on standard output, as container logs want it."""

import logging
import sys

_TRACE = 5
LEVELS = ("ERROR", "WARNING", "INFO", "DEBUG", "TRACE")


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace("\r", "\\r").replace("\n", "\\n")


def set_up_logging(level: str) -> None:
    """Log this level (one of LEVELS) and above, servables' own records included."""
    logging.addLevelName(_TRACE, "TRACE")
    sys.stdout.reconfigure(errors="backslashreplace")  # no text is worth losing a line
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_OneLine("%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("ovms_local").setLevel(level)
    # They have a traceback for each client that goes away at a wrong moment; errors of ours are logged before.
    for library in ("grpc", "uvicorn", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
