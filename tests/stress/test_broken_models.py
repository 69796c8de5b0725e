"""Model folders and settings that can't be served: the log names the file or variable, and the server stays up."""

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from tokenizers import Tokenizer
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from ovms_local.testing import RunningServer
from tests.support import log_lines
from text_generation import model_folder
from text_generation.model_folder import ModelFolderError
from text_generation.serve import loading
from text_generation.serve.settings import Settings

pytestmark = pytest.mark.slow


def copied(folder: Path, name: str) -> Path:
    """Replace the file's link with a copy that may be damaged, and return it."""
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    return path


def truncated(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = copied(folder, name)
        path.write_bytes(path.read_bytes()[:-1000])

    return damage


def overwritten(name: str) -> Callable[[Path], None]:
    """Replace bytes without changing the size, as a bad disk might."""

    def damage(folder: Path) -> None:
        path = copied(folder, name)
        path.write_bytes(b"\xa5" * path.stat().st_size)

    return damage


def removed(*names: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return damage


def with_another_tokenizer(folder: Path) -> None:
    """Use a tokenizer with one token more than the model."""
    removed("model_info.json")(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(["zzqq"])
    copied(folder, "tokenizer.json").write_text(tokenizer.to_str())


def with_template(template: str) -> Callable[[Path], None]:
    def break_it(folder: Path) -> None:
        removed("model_info.json")(folder)
        copied(folder, "chat_template.jinja").write_text(template)

    return break_it


def emptied(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def replaced_by_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("model")


def with_folder_for_weights(folder: Path) -> None:
    (folder / "openvino_model.bin").unlink()
    (folder / "openvino_model.bin").mkdir()


DAMAGES = {
    "not there": (shutil.rmtree, "is not a folder"),
    "a file": (replaced_by_a_file, "is not a folder"),
    "empty": (emptied, "openvino_model.xml is missing"),
    "weights truncated": (
        truncated("openvino_model.bin"),
        "openvino_model.bin has 135,233,821 bytes instead of 135,234,821",
    ),
    "weights a folder": (with_folder_for_weights, "openvino_model.bin cannot be read"),
    "weights truncated, sizes unknown": (
        lambda folder: (removed("model_info.json")(folder), truncated("openvino_model.bin")(folder)),
        "openvino_model.bin is truncated",
    ),
    "graph overwritten": (overwritten("openvino_model.xml"), "openvino_model.xml"),
    "no tokenizer": (removed("tokenizer.json"), "tokenizer.json is missing"),
    "tokenizer overwritten": (overwritten("tokenizer.json"), "tokenizer.json is damaged"),
    "tokenizer of another model": (with_another_tokenizer, "tokenizer.json is another model's: 'zzqq'"),
    "no template": (removed("model_info.json", "chat_template.jinja"), "has no chat template"),
    "template that refuses a question": (
        with_template("{{ raise_exception('ask somebody else') }}"),
        "can't be used with a user's message: the model's chat",
    ),
    "template without the question": (with_template("Hello!"), "leaves out the question"),
    "configuration overwritten": (overwritten("config.json"), "model/config.json"),
    "generation configuration overwritten": (overwritten("generation_config.json"), "model/generation_config.json"),
    "info overwritten": (overwritten("model_info.json"), "model_info.json is damaged"),
}


@pytest.fixture
def folder(int8_model, tmp_path) -> Path:
    """The real model, as links that may be replaced."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in int8_model.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_folder_is_one_line_that_names_it(folder, damage):
    break_it, says = DAMAGES[damage]
    break_it(folder)
    with pytest.raises(ModelFolderError) as error:
        loading.acquire(Settings(model_path=folder))
    assert says in str(error.value)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("chosen", ["optimum", "genai"])
def test_a_folder_without_info_is_served_all_the_same(folder, chosen):
    """Like a folder made by optimum-cli."""
    removed("model_info.json")(folder)
    assert model_folder.check(folder) is None
    loading.release(loading.acquire(Settings(model_path=folder, engine=chosen)))


@pytest.mark.parametrize(
    ("packages", "advice"),
    [
        ({"openvino": "2020.1", "torch": "1.0"}, ["run the two commands again with this release"]),
        ({"openvino": "2020.1"}, ["export the original checkpoint with this release"]),
        ({}, []),
    ],
    ids=["exported here", "ready-made", "unknown"],
)
def test_a_folder_of_another_release_is_served_with_a_warning(folder, packages, advice, caplog):
    info = json.loads((folder / "model_info.json").read_text())
    copied(folder, "model_info.json").write_text(json.dumps(info | {"packages": packages}))
    loading.release(loading.acquire(Settings(model_path=folder, engine="genai")))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [message.rpartition("odd answers, ")[2] for message in warnings] == advice


@pytest.mark.parametrize("damage", ["weights truncated", "graph overwritten"])
def test_the_graph_is_unavailable_and_the_server_up(serving, folder, damage):
    break_it, says = DAMAGES[damage]
    break_it(folder)
    with serving("stream", MODEL_PATH=folder, ENGINE="genai") as server:
        assert_unavailable(server, says)
        assert str(folder) in server.log


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"device": "TPU"}, "DEVICE=TPU"),
        ({"ov_config": '{"PERFORMANCE_HINT": "FAST"}'}, '"PERFORMANCE_HINT": "FAST"'),
        ({"system_prompt": "word " * 9000, "max_prompt_tokens_per_request": 10_000}, ": shorten SYSTEM_PROMPT"),
        ({"max_prompt_tokens_per_request": 5}, "MAX_PROMPT_TOKENS_PER_REQUEST is 5: raise the limit"),
    ],
)
def test_settings_that_do_not_suit_the_model_are_one_line_that_names_them(int8_model, settings, says):
    with pytest.raises(ModelFolderError) as error:
        loading.acquire(Settings(model_path=int8_model, **settings))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_system_prompt_that_the_template_refuses_is_named(folder):
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    with_template(template + "{{ messages[0].content }}")(folder)
    with pytest.raises(ModelFolderError, match=r"can't be used with SYSTEM_PROMPT.*no system role"):
        loading.acquire(Settings(model_path=folder, system_prompt="Be brief."))


def test_a_bad_setting_makes_the_graph_unavailable(serving):
    """text_generation/serve/test_settings.py tests which values are invalid."""
    with serving("unary", MAX_PROMPTS_PER_REQUEST=0) as server:
        assert_unavailable(server, "MAX_PROMPTS_PER_REQUEST is '0'")


def assert_unavailable(server: RunningServer, says: str) -> None:
    """Check that the log gives the reason in one line, the graph is unavailable, and the server is healthy."""
    [line] = [line for line in server.log.splitlines() if " ERROR " in line]
    assert log_lines.graph_is("not available", "python_model") in line
    assert says in line
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{server.rest_url}/v2/models/python_model/ready")
    assert error.value.code == 404
    assert "error" in json.load(error.value)
    with InferenceServerClient(server.grpc_url) as client:
        assert client.is_server_live()
        assert not client.is_model_ready("python_model")
        with pytest.raises(InferenceServerException) as refused:
            client.get_model_metadata("python_model")
        assert refused.value.status() == str(grpc.StatusCode.UNAVAILABLE)
