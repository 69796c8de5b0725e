"""Logging of the library, whichever server it runs in."""

import json
import logging
from datetime import UTC, datetime

from text_generation.serve.settings import Settings

_LIBRARY = "text_generation"


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: time, level, logger and message, then the record's `fields`, if any."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up_logging(settings: Settings) -> None:
    """Log at LOG_LEVEL and above. With LOG_FORMAT=json the library writes its own lines to standard error; otherwise
    they go to the server's log."""
    logger = logging.getLogger(_LIBRARY)
    logger.setLevel(settings.log_level)
    logging.basicConfig(format="[%(asctime)s][%(name)s][%(levelname)s] %(message)s")  # if the server has no handlers
    if settings.log_format == "json":
        handler = logging.StreamHandler()
        handler.setFormatter(JsonFormatter())
        logger.handlers = [handler]
        logger.propagate = False
