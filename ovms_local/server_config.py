"""config.json: which graphs to serve, and where their files are."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from ovms_local.metrics import MetricsError, enabled_families

_DEFAULT_GRAPH = "graph.pbtxt"
_VERSION_FOLDER = "1"
_KINDS = {
    "model_type": "an object",
    "list_type": "a list",
    "string_type": "a string",
    "string_too_short": "a text that is not empty",
    "string_unicode": "a text in Unicode",
    "bool_type": "true or false",
}
_ABSENT: Any = None  # a default, which pydantic does not validate: a null in the file is refused


class _Object(BaseModel):
    """An object in the file. Unknown keys and values of other types are refused, as the server's schema does."""

    model_config = ConfigDict(extra="forbid", strict=True)


class _Graph(_Object):
    name: Annotated[str, Field(min_length=1)]
    base_path: str = ""
    graph_path: str = ""
    subconfig: str = ""


class _Model(_Graph):
    batch_size: Any = None
    model_version_policy: Any = None
    shape: Any = None
    layout: Any = None
    nireq: Any = None
    target_device: Any = None
    allow_cache: Any = None
    plugin_config: Any = None
    custom_loader_options: Any = None


class _ModelEntry(_Object):
    config: _Model


class _Metrics(_Object):
    enable: bool
    metrics_list: list[str] = _ABSENT


class _Monitoring(_Object):
    metrics: _Metrics


class _File(_Object):
    model_config_list: list[_ModelEntry]
    mediapipe_config_list: list[_Graph] = []
    pipeline_config_list: Any = None
    custom_node_library_config_list: Any = None
    custom_loader_config_list: Any = None
    monitoring: _Monitoring = _ABSENT


class ServerConfigError(ValueError):
    """The configuration is invalid; the message says what is wrong with it."""


class ServerConfigMissing(ServerConfigError):
    """The config.json can't be opened."""


@dataclass(frozen=True, slots=True)
class GraphEntry:
    """A graph to serve."""

    name: str
    base_path: Path
    graph_path: Path


@dataclass(frozen=True, slots=True)
class Monitoring:
    """Whether to serve metrics, and which."""

    enabled: bool
    families: frozenset[str]


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The content of a config.json. Of several graphs with the same name, listed in `duplicates`, the first counts."""

    graphs: tuple[GraphEntry, ...]
    duplicates: tuple[str, ...] = ()
    monitoring: Monitoring | None = None


def parse_server_config(content: bytes, path: Path) -> ServerConfig:
    """Parse the content of the config.json at `path`; graphs of `mediapipe_config_list` come first.

    Raises:
        ServerConfigError: it is not JSON, or does not have the structure of a config.json.
    """
    try:
        file = _File.model_validate(json.loads(content, object_pairs_hook=_first_key_counts))
        folder = path.absolute().parent
        graphs = [_graph(entry, folder) for entry in file.mediapipe_config_list]
        graphs += [_in_version_folder(_graph(entry.config, folder)) for entry in file.model_config_list]
        monitoring = _monitoring(file.monitoring.metrics) if file.monitoring else None
    except ValidationError as error:
        raise ServerConfigError(f"{path}: {_problem(error.errors()[0])}") from None
    except MetricsError as error:
        raise ServerConfigError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ServerConfigError(f"{path} is not valid JSON: {error}") from error
    first = {graph.name: graph for graph in reversed(graphs)}
    unique = tuple(graph for graph in graphs if first[graph.name] is graph)
    duplicates = tuple(graph.name for graph in graphs if first[graph.name] is not graph)
    return ServerConfig(unique, duplicates, monitoring)


def single_graph(name: str, folder: Path) -> GraphEntry:
    """Return the entry for the graph given by `--model_name` and `--model_path`."""
    return _in_version_folder(GraphEntry(name, folder, folder / _DEFAULT_GRAPH))


def _first_key_counts(members: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(members))


def _problem(error: ErrorDetails) -> str:
    """What is wrong with a value of the file, and where."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"])
    place = path.removeprefix(".") or "the file"
    if error["type"] == "missing":
        return f"{place} is missing" + " (it may be empty: [])" * (place == "model_config_list")
    if error["type"] == "extra_forbidden":
        return f"{place} is not a key that the server knows"
    return f"{place} must be {_KINDS[error['type']]}, not {json.dumps(error['input'])[:40]}"


def _monitoring(metrics: _Metrics) -> Monitoring:
    return Monitoring(metrics.enable, enabled_families(metrics.metrics_list))


def _graph(entry: _Graph, folder: Path) -> GraphEntry:
    base_path = folder / (entry.base_path or entry.name)
    return GraphEntry(entry.name, base_path, base_path / (entry.graph_path or _DEFAULT_GRAPH))


def _in_version_folder(graph: GraphEntry) -> GraphEntry:
    """Return a graph whose files may be in a version folder, where model repositories usually have them."""
    version = graph.base_path / _VERSION_FOLDER
    if _is_file(graph.graph_path) or not _is_file(version / _DEFAULT_GRAPH):
        return graph
    return GraphEntry(graph.name, version, version / _DEFAULT_GRAPH)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the path is too long, or leads through a folder that may not be searched
        return False
