"""config.json: which graphs to serve, and where their files are."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ovms_local.metrics import MetricsError, enabled_families

_SECTIONS = (
    "model_config_list", "mediapipe_config_list", "pipeline_config_list", "custom_node_library_config_list",
    "custom_loader_config_list", "monitoring",
)  # fmt: skip
_GRAPH_KEYS = ("name", "base_path", "graph_path", "subconfig")
_MODEL_KEYS = (
    *_GRAPH_KEYS, "batch_size", "model_version_policy", "shape", "layout", "nireq", "target_device", "allow_cache",
    "plugin_config", "custom_loader_options",
)  # fmt: skip
_DEFAULT_GRAPH = "graph.pbtxt"
_VERSION_FOLDER = "1"
_T = TypeVar("_T")


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
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ServerConfigError(f"{path} is not valid JSON: {error}") from error
    try:
        config = _checked(config, dict, "the file")
        _check_sections(config)
        graphs = _graphs(config, path.absolute().parent)
        first = {graph.name: graph for graph in reversed(graphs)}
        unique = tuple(graph for graph in graphs if first[graph.name] is graph)
        duplicates = tuple(graph.name for graph in graphs if first[graph.name] is not graph)
        return ServerConfig(unique, duplicates, _monitoring(config))
    except (ServerConfigError, MetricsError) as error:
        raise ServerConfigError(f"{path}: {error}") from None


def single_graph(name: str, folder: Path) -> GraphEntry:
    """Return the entry for the graph given by `--model_name` and `--model_path`."""
    return _in_version_folder({"name": name, "base_path": str(folder.absolute())}, Path.cwd())


def _check_sections(config: dict[str, Any]) -> None:
    for section in config:
        if section not in _SECTIONS:
            raise ServerConfigError(f"{section!r} is not a section of a config.json")
    if "model_config_list" not in config:
        raise ServerConfigError("model_config_list is missing (it may be empty: [])")


def _graphs(config: dict[str, Any], folder: Path) -> list[GraphEntry]:
    graphs = [_graph(_checked_entry(entry, _GRAPH_KEYS), folder) for entry in _list(config, "mediapipe_config_list")]
    for model in _list(config, "model_config_list"):
        model = _checked(model, dict, "an entry of model_config_list")
        if list(model) != ["config"]:
            raise ServerConfigError('an entry of model_config_list must be {"config": {...}} and nothing else')
        graphs.append(_in_version_folder(_checked_entry(model["config"], _MODEL_KEYS), folder))
    return graphs


def _monitoring(config: dict[str, Any]) -> Monitoring | None:
    if "monitoring" not in config:
        return None
    monitoring = _checked(config["monitoring"], dict, "monitoring")
    metrics = _checked(monitoring.get("metrics"), dict, '"metrics" in monitoring')
    for key in (*(key for key in monitoring if key != "metrics"), *metrics):
        if key not in ("enable", "metrics_list"):
            raise ServerConfigError(f"{key!r} is not a key of monitoring")
    enabled = _checked(metrics.get("enable"), bool, '"enable" of the metrics')
    names = _list(metrics, "metrics_list") if "metrics_list" in metrics else None
    for name in names or ():
        _checked(name, str, "a name in metrics_list")
    return Monitoring(enabled, enabled_families(names))


def _list(config: dict[str, Any], section: str) -> list[Any]:
    return _checked(config.get(section, []), list, section)


def _checked(value: object, expected: type[_T], what: str) -> _T:
    if not isinstance(value, expected):
        names: dict[type, str] = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
        raise ServerConfigError(f"{what} must be {names[expected]}, not {json.dumps(value)[:40]}")
    return value


def _checked_entry(value: object, keys: tuple[str, ...]) -> dict[str, Any]:
    entry = _checked(value, dict, "a graph's entry")
    for key, value in entry.items():
        if key not in keys:
            raise ServerConfigError(f"{key!r} is not a key of a graph's entry: {', '.join(keys)}")
        if key in _GRAPH_KEYS:
            _checked(value, str, f"{key!r} of a graph's entry")
    if not entry.get("name"):
        raise ServerConfigError("a graph's entry has no name")
    return entry


def _graph(entry: dict[str, Any], folder: Path) -> GraphEntry:
    name = entry["name"]
    base_path = folder / (entry.get("base_path") or name)
    return GraphEntry(name, base_path, base_path / (entry.get("graph_path") or _DEFAULT_GRAPH))


def _in_version_folder(entry: dict[str, Any], folder: Path) -> GraphEntry:
    """Return a graph whose files may be in a version folder, where model repositories usually have them."""
    graph = _graph(entry, folder)
    version = graph.base_path / _VERSION_FOLDER
    if graph.graph_path.is_file() or not (version / _DEFAULT_GRAPH).is_file():
        return graph
    return GraphEntry(graph.name, version, version / _DEFAULT_GRAPH)
