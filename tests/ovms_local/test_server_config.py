import json
from pathlib import Path

import pytest

from ovms_local.metrics import enabled_families
from ovms_local.server_config import Monitoring, ServerConfigError, parse_server_config, single_graph


def read(folder, config):
    content = config if isinstance(config, str) else json.dumps(config)
    return parse_server_config(content.encode(), folder / "config.json")


def graph(folder, **entry):
    [found] = read(folder, {"model_config_list": [], "mediapipe_config_list": [{"name": "g"} | entry]}).graphs
    return found


def model(folder, **entry):
    [found] = read(folder, {"model_config_list": [{"config": {"name": "g"} | entry}]}).graphs
    return found


def put_graph(*folders):
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "graph.pbtxt").touch()


@pytest.mark.parametrize(
    ("entry", "base_path", "graph_path"),
    [
        ({}, "g", "g/graph.pbtxt"),
        ({"base_path": ""}, "g", "g/graph.pbtxt"),
        ({"base_path": "./"}, ".", "graph.pbtxt"),
        ({"base_path": "sub"}, "sub", "sub/graph.pbtxt"),
        ({"base_path": "sub/"}, "sub", "sub/graph.pbtxt"),
        ({"base_path": "/abs"}, "/abs", "/abs/graph.pbtxt"),
        ({"base_path": "/abs/", "graph_path": "my.pbtxt"}, "/abs", "/abs/my.pbtxt"),
        ({"graph_path": "/abs/my.pbtxt"}, "g", "/abs/my.pbtxt"),
        ({"graph_path": ""}, "g", "g/graph.pbtxt"),
        ({"subconfig": "x.json"}, "g", "g/graph.pbtxt"),
    ],
)
def test_paths(tmp_path, entry, base_path, graph_path):
    found = graph(tmp_path, **entry)
    assert (found.base_path, found.graph_path) == (tmp_path / base_path, tmp_path / graph_path)


@pytest.mark.parametrize("entry", [{"name": "../x"}, {"base_path": "../x"}, {"graph_path": "../../x/graph.pbtxt"}])
def test_paths_may_go_up(tmp_path, entry):
    put_graph(tmp_path / "x")
    (tmp_path / "configs" / "g").mkdir(parents=True)
    found = graph(tmp_path / "configs", **entry)
    assert found.graph_path.samefile(tmp_path / "x" / "graph.pbtxt")


def test_relative_config_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert graph(Path()).base_path == tmp_path / "g"


def test_graphs_in_the_model_list(tmp_path):
    put_graph(tmp_path / "g")
    assert model(tmp_path).base_path == tmp_path / "g"
    assert model(tmp_path, base_path="/g", graph_path="my.pbtxt", nireq=4).graph_path == Path("/g/my.pbtxt")


def test_a_graph_in_a_version_folder_is_found_where_there_is_none_above(tmp_path):
    put_graph(tmp_path / "g" / "1")
    version = tmp_path / "g" / "1"
    for found in (model(tmp_path), model(tmp_path, graph_path="my.pbtxt"), single_graph("g", tmp_path / "g")):
        assert (found.base_path, found.graph_path) == (version, version / "graph.pbtxt")
    assert graph(tmp_path).base_path == tmp_path / "g", "only models have versions"
    put_graph(tmp_path / "g")
    assert model(tmp_path).base_path == tmp_path / "g"
    assert single_graph("g", tmp_path / "g").base_path == tmp_path / "g"


def test_a_folder_that_cannot_exist_is_no_error_of_the_file(tmp_path):
    assert model(tmp_path, base_path="x" * 300).base_path == tmp_path / ("x" * 300)


def test_of_graphs_with_one_name_the_first_counts_and_the_mediapipe_list_is_read_first(tmp_path):
    config = read(
        tmp_path,
        {
            "model_config_list": [{"config": {"name": "a", "base_path": "third"}}, {"config": {"name": "c"}}],
            "mediapipe_config_list": [{"name": "a", "base_path": "first"}, {"name": "b"}, {"name": "a"}],
        },
    )
    assert [graph.name for graph in config.graphs] == ["a", "b", "c"]
    assert config.graphs[0].base_path == tmp_path / "first"
    assert config.duplicates == ("a", "a")


def test_the_first_of_equal_keys_counts(tmp_path):
    entry = '{"name": "g", "name": 1, "base_path": "one", "base_path": "two"}'
    content = f'{{"model_config_list": [], "mediapipe_config_list": [{entry}], "mediapipe_config_list": []}}'
    [graph] = parse_server_config(content.encode(), tmp_path / "config.json").graphs
    assert (graph.name, graph.base_path) == ("g", tmp_path / "one")


def test_empty_lists_are_fine(tmp_path):
    assert read(tmp_path, {"model_config_list": []}).graphs == ()


@pytest.mark.parametrize(
    ("metrics", "monitoring"),
    [
        ({"enable": True}, Monitoring(True, enabled_families(None))),
        ({"enable": True, "metrics_list": []}, Monitoring(True, frozenset())),
        (
            {"enable": True, "metrics_list": ["ovms_responses", "ovms_streams"]},
            Monitoring(True, frozenset(["ovms_responses", "ovms_streams"])),
        ),
        ({"enable": False}, Monitoring(False, enabled_families(None))),
    ],
)
def test_monitoring(tmp_path, metrics, monitoring):
    assert read(tmp_path, {"model_config_list": [], "monitoring": {"metrics": metrics}}).monitoring == monitoring
    assert read(tmp_path, {"model_config_list": []}).monitoring is None


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "must be an object"),
        ({}, "model_config_list is missing"),
        ({"mediapipe_config_list": []}, "model_config_list is missing"),
        ({"model_config_list": {}}, "model_config_list must be a list"),
        ({"model_config_list": [], "mediapipe_config_list": {}}, "mediapipe_config_list must be a list"),
        ({"model_config_list": [], "graphs": []}, "graphs is not a key"),
        ({"model_config_list": [1]}, "must be an object"),
        ({"model_config_list": [{}]}, "model_config_list[0].config is missing"),
        ({"model_config_list": [], "mediapipe_config_list": [1]}, "must be an object"),
        ({"model_config_list": [], "mediapipe_config_list": [{}]}, "mediapipe_config_list[0].name is missing"),
        ({"model_config_list": [], "mediapipe_config_list": [{"name": ""}]}, "must be a text that is not empty"),
        ({"model_config_list": [], "mediapipe_config_list": [{"name": 1}]}, "must be a string"),
        (
            {"model_config_list": [], "mediapipe_config_list": [{"name": "g", "path": "x"}]},
            "[0].path is not a key",
        ),
        (
            {"model_config_list": [{"config": {"name": "g", "stateful": True}}]},
            "[0].config.stateful is not a key",
        ),
        ({"model_config_list": [{"config": {"name": "g"}, "name": "g"}]}, "model_config_list[0].name is not a key"),
        ({"model_config_list": [], "mediapipe_config_list": None}, "mediapipe_config_list must be a list, not null"),
        ({"model_config_list": [], "monitoring": []}, "monitoring must be an object"),
        ({"model_config_list": [], "monitoring": None}, "monitoring must be an object, not null"),
        ({"model_config_list": [], "monitoring": {}}, "monitoring.metrics is missing"),
        ({"model_config_list": [], "monitoring": {"metrics": {}}}, "monitoring.metrics.enable is missing"),
        (
            {"model_config_list": [], "monitoring": {"metrics": {"enable": True, "metrics_list": None}}},
            "monitoring.metrics.metrics_list must be a list, not null",
        ),
        ({"model_config_list": [], "monitoring": {"metrics": {"enable": 1}}}, "must be true or false, not 1"),
        (
            {"model_config_list": [], "monitoring": {"metrics": {"enable": True, "list": []}}},
            "metrics.list is not a key",
        ),
        (
            {"model_config_list": [], "monitoring": {"metrics": {"enable": True, "metrics_list": ["ovms_x"]}}},
            "unknown metric 'ovms_x'",
        ),
        (
            {
                "model_config_list": [],
                "monitoring": {"metrics": {"enable": True, "metrics_list": ["ovms_streams"] * 2}},
            },
            "'ovms_streams' is listed twice",
        ),
    ],
)
def test_wrong_files_are_refused_in_one_line(tmp_path, config, text):
    with pytest.raises(ServerConfigError) as caught:
        read(tmp_path, config)
    assert text in str(caught.value)
    assert str(tmp_path / "config.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_single_graph(tmp_path):
    entry = single_graph("g", tmp_path / "folder")
    assert (entry.name, entry.base_path) == ("g", tmp_path / "folder")
    assert entry.graph_path == tmp_path / "folder" / "graph.pbtxt"
