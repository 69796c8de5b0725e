"""config.json: which graphs to serve, and where their files are."""

import json
from dataclasses import dataclass
from pathlib import Path, PurePath

_SECTIONS = (
    "model_config_list", "mediapipe_config_list", "pipeline_config_list", "custom_node_library_config_list",
    "custom_loader_config_list", "monitoring",
)  # fmt: skip
_ENTRY_KEYS = ("name", "base_path", "graph_path", "subconfig")
_DEFAULT_GRAPH = "graph.pbtxt"


class ServerConfigError(ValueError):
    """A configuration the server can't start with; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class GraphEntry:
    """A graph to serve. With a `problem`, it is known by name but can't be loaded."""

    name: str
    base_path: Path
    graph_path: Path
    problem: str = ""


def read_server_config(path: Path) -> tuple[GraphEntry, ...]:
    """The graphs that a config.json lists, in its order, those of `model_config_list` first.

    Raises:
        ServerConfigError: the file can't be read, is no JSON, or does not have the layout of a config.json.
    """
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise ServerConfigError(f"can't read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ServerConfigError(f"{path} is not valid JSON: {error}") from error
    try:
        return _entries(config, path.absolute().parent)
    except ServerConfigError as error:
        raise ServerConfigError(f"{path}: {error}") from None


def single_graph(name: str, folder: Path) -> GraphEntry:
    """What `--model_name` and `--model_path` ask for: one graph, without a config.json."""
    return _entry({"name": name, "base_path": str(folder.absolute())}, Path.cwd())


def _entries(config: object, folder: Path) -> tuple[GraphEntry, ...]:
    _check_type(config, dict, "the file")
    for section in config:
        if section not in _SECTIONS:
            raise ServerConfigError(f"{section!r} is not a section of a config.json")
    if "model_config_list" not in config:
        raise ServerConfigError("model_config_list is missing (it may be empty: [])")
    entries = [_model_entry(entry, folder) for entry in _list(config, "model_config_list")]
    entries += [_entry(entry, folder) for entry in _list(config, "mediapipe_config_list")]
    names = [entry.name for entry in entries]
    for position, name in enumerate(names):
        if name in names[:position]:
            raise ServerConfigError(f"two entries have the name {name!r}")
    return tuple(entries)


def _list(config: dict, section: str) -> list:
    entries = config.get(section, [])
    _check_type(entries, list, section)
    return entries


def _check_type(value: object, expected: type, what: str) -> None:
    if not isinstance(value, expected):
        names = {dict: "an object", list: "a list", str: "a string"}
        raise ServerConfigError(f"{what} must be {names[expected]}, not {json.dumps(value)[:40]}")


def _model_entry(entry: object, folder: Path) -> GraphEntry:
    """An entry of model_config_list: a graph where it names one or its folder holds one."""
    _check_type(entry, dict, "an entry of model_config_list")
    config = entry.get("config")
    _check_type(config, dict, '"config" in model_config_list')
    graph = _entry({key: config[key] for key in _ENTRY_KEYS if key in config}, folder)
    if not graph.problem and "graph_path" not in config and not graph.graph_path.exists():
        problem = f"it has no {_DEFAULT_GRAPH}: models without a graph are not supported here"
        return GraphEntry(graph.name, graph.base_path, graph.graph_path, problem)
    return graph


def _entry(entry: object, folder: Path) -> GraphEntry:
    _check_type(entry, dict, "an entry of mediapipe_config_list")
    for key, value in entry.items():
        if key not in _ENTRY_KEYS:
            raise ServerConfigError(f"{key!r} is not a key of a graph's entry: {', '.join(_ENTRY_KEYS)}")
        _check_type(value, str, f"{key!r} of a graph's entry")
    if not entry.get("name"):
        raise ServerConfigError("a graph's entry has no name")
    name = entry["name"]
    paths = (entry.get("base_path") or name, entry.get("graph_path") or _DEFAULT_GRAPH)
    base_path = folder / paths[0]
    graph_path = base_path / paths[1]
    escapes = [path for path in paths if ".." in PurePath(path).parts]
    problem = f"the path {escapes[0]!r} has '..' in it, which is not allowed" if escapes else ""
    return GraphEntry(name, base_path, graph_path, problem)
