"""A model folder's content is data, never a program; users' questions stay private."""

import json
from pathlib import Path

import pytest
from tritonclient.grpc import InferenceServerClient

from tests.support import chat, clients, log_lines

pytestmark = pytest.mark.slow

SECRET = "My password is xyzzy-4711."


@pytest.fixture
def folder_with_code(int8_model, tmp_path) -> tuple[Path, Path]:
    """The real model with Python code in its folder, requested by every configuration; and the file the code writes."""
    folder, trace = tmp_path / "model", tmp_path / "code ran"
    folder.mkdir()
    for path in int8_model.iterdir():
        if path.name != "model_info.json":
            (folder / path.name).symlink_to(path)
    for module in ("configuration_own", "modeling_own", "tokenization_own", "custom_generate/generate"):
        (folder / f"{module}.py").parent.mkdir(exist_ok=True)
        (folder / f"{module}.py").write_text(f"open({str(trace)!r}, 'w').close()\nclass Own: pass\n")
    classes = {
        "config.json": {"AutoConfig": "configuration_own.Own", "AutoModelForCausalLM": "modeling_own.Own"},
        "tokenizer_config.json": {"AutoTokenizer": ["tokenization_own.Own", "tokenization_own.Own"]},
    }
    for name, auto_map in classes.items():
        content = json.loads((folder / name).read_text())
        (folder / name).unlink()
        (folder / name).write_text(json.dumps(content | {"auto_map": auto_map}))
    return folder, trace


def test_code_in_a_model_folder_never_runs(serving, engine, folder_with_code):
    folder, trace = folder_with_code
    with serving("unary", ENGINE=engine, MODEL_PATH=folder, MAX_NEW_TOKENS=4) as server:
        refused = log_lines.graph_is("not available", "python_model") in server.log
        assert refused or clients.unary(server.grpc_url, "Hi").error is None
    assert not trace.exists()


@pytest.mark.parametrize(("level", "logged"), [("INFO", False), ("DEBUG", True)])
def test_prompts_are_in_the_log_at_debug_alone(serving, level, logged):
    with serving("stream", ENGINE="genai", LOG_LEVEL=level, MAX_NEW_TOKENS=4) as server:
        assert clients.stream(server.grpc_url, SECRET).error is None
        assert "no UTF-8" not in clients.stream(server.grpc_url, SECRET * 3000).error  # refused, which is also logged
        server.stop()
        assert (SECRET in server.log) == logged


def test_a_refused_conversation_is_not_quoted_in_the_log(serving):
    """The error message for the client quotes its request; the log, which others read, does not."""
    wrong = [
        {"messages": [{"role": "user", "content": [SECRET]}]},
        {"messages": [{"role": SECRET, "content": "Hi"}]},
        {"messages": SECRET},
        {"messages": [{"role": "user", "content": "Hi"}], "temperature": SECRET},
        {"messages": [{"role": "user", "content": "Hi"}], "stop": [SECRET * 20]},
    ]
    with serving("chat", ENGINE="genai", MAX_NEW_TOKENS=4) as server, InferenceServerClient(server.grpc_url) as client:
        for request in wrong:
            assert "xyzzy" in chat.refused(client, request)
        server.stop()
        assert server.log.count(log_lines.REQUEST_REFUSED) == len(wrong)
        assert "xyzzy" not in server.log
