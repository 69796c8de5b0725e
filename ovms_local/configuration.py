"""What the server is to serve, looked at again and again: config.json, or the one graph of the command line."""

import logging
import threading
import time
from pathlib import Path
from typing import Protocol

from ovms_local.graphs import Graphs
from ovms_local.server_config import (
    ServerConfig,
    ServerConfigError,
    ServerConfigMissing,
    parse_server_config,
    single_graph,
)

_log = logging.getLogger(__name__)

# A config.json that can't be read may be one that is being written: look so many times, so many seconds apart.
_ATTEMPTS, _PAUSE = 3, 0.01


class ConfigSource(Protocol):
    """Where the configuration comes from."""

    def read(self) -> ServerConfig:
        """What it says now.

        Raises:
            ServerConfigError: it can't be read; the same object again for as long as that has the same cause.
        """


class ConfigFile:
    """A config.json."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: bytes | str | None = None
        self._error: ServerConfigError | None = None

    def read(self) -> ServerConfig:
        """See ConfigSource. What it says depends on which files are there, so that it is parsed again in any case."""
        for _ in range(_ATTEMPTS):
            found = self._content()
            if self._error and found == self._seen:
                raise self._error
            try:
                config = self._parse(found)
            except ServerConfigError as error:
                latest = error
                time.sleep(_PAUSE)
                continue
            if found != self._seen:
                for name in config.duplicates:
                    _log.warning("%s has several graphs named %s: only the first is loaded", self._path, name)
            self._seen, self._error = found, None
            return config
        self._seen, self._error = found, latest
        raise latest

    def _content(self) -> bytes | str:
        """The file's content, or why there is none."""
        try:
            return self._path.read_bytes()
        except OSError as error:
            return f"can't read {self._path}: {error.strerror}"

    def _parse(self, found: bytes | str) -> ServerConfig:
        if isinstance(found, str):
            raise ServerConfigMissing(found)
        return parse_server_config(found, self._path)


class SingleGraph:
    """The flags `--model_name` and `--model_path`."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._folder = folder

    def read(self) -> ServerConfig:
        """See ConfigSource; the graph may come to be in the folder of a version, or in its own again."""
        return ServerConfig((single_graph(self._name, self._folder),))


class Configuration:
    """Keeps the graphs as the configuration wants them."""

    def __init__(self, source: ConfigSource, graphs: Graphs) -> None:
        self._source = source
        self._graphs = graphs
        self._lock = threading.Lock()
        self._reported: ServerConfigError | None = None

    def apply(self) -> None:
        """Load what is new or has changed, and unload what is gone; on any thread, one after another.

        Raises:
            ServerConfigError: the configuration can't be read, and everything is as it was. Logged once per cause.
        """
        with self._lock:
            try:
                config = self._source.read()
            except ServerConfigError as error:
                if error is not self._reported:
                    _log.error("the graphs stay as they are: %s", error)
                self._reported = error
                raise
            self._graphs.update(config.graphs)
