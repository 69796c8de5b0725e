"""How the library's log looks, inside whichever server it runs in."""

import json
import logging
from datetime import UTC, datetime

from text_generation.serve.settings import Settings

_LIBRARY = "text_generation"


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time, level, logger and message, then the record's `fields` where it has some."""

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
    """Log at LOG_LEVEL and above. With LOG_FORMAT=json the library writes its lines to standard error by itself; else
    they go where the server's go."""
    logger = logging.getLogger(_LIBRARY)
    logger.setLevel(settings.log_level)
    logging.basicConfig(format="[%(asctime)s][%(name)s][%(levelname)s] %(message)s")  # where the server has none
    if settings.log_format == "json":
        handler = logging.StreamHandler()
        handler.setFormatter(JsonFormatter())
        logger.handlers = [handler]
        logger.propagate = False
