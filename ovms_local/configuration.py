"""The configuration to serve, which is re-read periodically: config.json, or the one graph of the command line."""

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

# A config.json that can't be read may just be being written: number of attempts, and seconds between them.
_ATTEMPTS, _PAUSE = 3, 0.01


class ConfigSource(Protocol):
    """Where the configuration comes from."""

    def read(self) -> ServerConfig:
        """Return the current configuration.

        Raises:
            ServerConfigError: it can't be read; the same object is raised as long as the cause is the same.
        """


class ConfigFile:
    """A config.json."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()  # a node may change the current folder
        self._seen: bytes | str | None = None
        self._error: ServerConfigError | None = None

    def read(self) -> ServerConfig:
        """See ConfigSource. An unchanged file is parsed again, too, since the result depends on which files exist."""
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
        """Return the file's content, or as a str the reason why it can't be read."""
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
        self._folder = folder.absolute()

    def read(self) -> ServerConfig:
        """See ConfigSource; the graph file may have moved to or from a version folder."""
        return ServerConfig((single_graph(self._name, self._folder),))


class Configuration:
    """Keeps the graphs in line with the configuration."""

    def __init__(self, source: ConfigSource, graphs: Graphs) -> None:
        self._source = source
        self._graphs = graphs
        self._lock = threading.Lock()
        self._reported: ServerConfigError | None = None

    def apply(self) -> None:
        """Load new and changed graphs, and unload removed ones; safe on any thread, one call at a time.

        Raises:
            ServerConfigError: the configuration can't be read; nothing has changed. Logged once per cause.
        """
        with self._lock:
            try:
                config = self._source.read()
            except ServerConfigError as error:
                if error is not self._reported:
                    _log.error("the graphs are left unchanged: %s", error)
                self._reported = error
                raise
            self._graphs.update(config.graphs)
