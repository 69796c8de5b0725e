import json
from pathlib import Path

import pytest

from ovms_local.server_config import ServerConfigError, read_server_config, single_graph


def read(tmp_path, config):
    path = tmp_path / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    return read_server_config(path)


def graph(tmp_path, **entry):
    [found] = read(tmp_path, {"model_config_list": [], "mediapipe_config_list": [{"name": "g"} | entry]})
    return found


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
    assert (found.base_path, found.graph_path, found.problem) == (tmp_path / base_path, tmp_path / graph_path, "")


@pytest.mark.parametrize(
    "entry", [{"name": "../x"}, {"base_path": "../x"}, {"base_path": "/a/../b"}, {"graph_path": "x/../y.pbtxt"}]
)
def test_paths_that_go_up_are_refused(tmp_path, entry):
    assert "'..'" in graph(tmp_path, **entry).problem


def test_names_with_dots_are_no_way_up(tmp_path):
    assert graph(tmp_path, base_path="a..b").problem == ""


def test_relative_config_path(tmp_path, monkeypatch):
    read(tmp_path, {"model_config_list": []})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text('{"model_config_list": [], "mediapipe_config_list": [{"name": "g"}]}')
    assert read_server_config(Path("config.json"))[0].base_path == tmp_path / "g"


def test_graphs_in_the_model_list(tmp_path):
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "graph.pbtxt").write_text("")
    configs = [
        {"name": "one", "base_path": "/one", "graph_path": "my.pbtxt"},
        {"name": "two"},
        {"name": "three", "base_path": "/models/resnet", "nireq": 4},
    ]
    one, two, three = read(tmp_path, {"model_config_list": [{"config": config} for config in configs]})
    assert (one.graph_path, one.problem) == (Path("/one/my.pbtxt"), "")
    assert (two.base_path, two.problem) == (tmp_path / "two", "")
    assert "models without a graph" in three.problem


def test_empty_lists_are_fine(tmp_path):
    assert read(tmp_path, {"model_config_list": []}) == ()


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
        ({"model_config_list": [], "graphs": []}, "'graphs' is not a section"),
        ({"model_config_list": [1]}, "must be an object"),
        ({"model_config_list": [{}]}, "must be an object"),
        ({"model_config_list": [], "mediapipe_config_list": [1]}, "must be an object"),
        ({"model_config_list": [], "mediapipe_config_list": [{}]}, "no name"),
        ({"model_config_list": [], "mediapipe_config_list": [{"name": ""}]}, "no name"),
        ({"model_config_list": [], "mediapipe_config_list": [{"name": 1}]}, "must be a string"),
        ({"model_config_list": [], "mediapipe_config_list": [{"name": "g", "path": "x"}]}, "'path' is not a key"),
        ({"model_config_list": [], "mediapipe_config_list": [{"name": "g"}] * 2}, "two entries have the name 'g'"),
    ],
)
def test_wrong_files_are_refused_in_one_line(tmp_path, config, text):
    with pytest.raises(ServerConfigError) as caught:
        read(tmp_path, config)
    assert text in str(caught.value)
    assert str(tmp_path / "config.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "nowhere.json", tmp_path):
        with pytest.raises(ServerConfigError, match="can't read"):
            read_server_config(path)


def test_a_single_graph(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entry = single_graph("g", Path("folder"))
    assert (entry.name, entry.base_path) == ("g", tmp_path / "folder")
    assert entry.graph_path == tmp_path / "folder" / "graph.pbtxt"
