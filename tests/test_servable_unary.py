import json
import re
import subprocess
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from ovms_local.testing import RunningServer, serve
from tests.support.clients import text_input
from tests.support.ov_config import F32

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
RELATIVITY = "What is the theory of relativity?"
TOKYO = "What is the capital of Japan?"


def infer(server: RunningServer, *prompts: bytes | str) -> tuple[list[str], int]:
    """Return completions and token count of one request."""
    with InferenceServerClient(server.grpc_url) as client:
        result = client.infer("python_model", text_input("pre_prompt", *prompts))
    completion, token_count = result.get_output("completion"), result.get_output("token_count")
    assert (completion.datatype, list(completion.shape)) == ("BYTES", [len(prompts)])
    assert (token_count.datatype, list(token_count.shape)) == ("INT32", [1])
    return [text.decode() for text in result.as_numpy("completion")], int(result.as_numpy("token_count")[0])


@pytest.mark.parametrize("engine", ["optimum", "genai"])
def test_the_fp32_model_knows_its_capital(fp32_model, engine):
    env = {"MODEL_PATH": str(fp32_model), "ENGINE": engine, "TEMPERATURE": "0", "REPETITION_PENALTY": "1"}
    with serve(ROOT / "servable_unary", env=env | {"OV_CONFIG": F32}) as server:
        assert infer(server, TOKYO) == (["The capital of Japan is Tokyo."], 7)


def test_tokens_are_counted_over_all_prompts(unary_server):
    counts = [infer(unary_server, prompt)[1] for prompt in (RELATIVITY, TOKYO)]
    assert all(0 < count <= 32 for count in counts)
    completions, together = infer(unary_server, RELATIVITY, TOKYO)
    assert len(completions) == 2
    assert max(counts) < together <= 64


def test_a_seeded_answer_repeats_also_while_others_run(unary_server):
    alone = {prompt: infer(unary_server, prompt) for prompt in (RELATIVITY, TOKYO, "Write a poem.", "Hello")}
    prompts = list(alone) * 3
    with ThreadPoolExecutor(len(prompts)) as pool:
        together = list(pool.map(lambda prompt: infer(unary_server, prompt), prompts))
    assert together == [alone[prompt] for prompt in prompts]


def test_the_demos_curl_request_has_the_demos_layout(unary_server):
    body = f'{{"inputs":[{{"name" : "pre_prompt", "shape" : [1], "datatype" : "BYTES", "data" : ["{RELATIVITY}"]}}]}}'
    url = f"{unary_server.rest_url}/v2/models/python_model/infer"
    curl = ["curl", "--silent", "--header", "Content-Type: application/json", "--data", body, url]
    answer = subprocess.run(curl, capture_output=True, text=True, check=True, timeout=60).stdout
    for name, datatype, data in (("completion", "BYTES", r'\["[^\n]+"\]'), ("token_count", "INT32", r"\[\d+\]")):
        output = (
            rf'{{\n            "name": "{name}",\n            "shape": \[1\],\n'
            rf'            "datatype": "{datatype}",\n            "data": {data}\n        }}'
        )
        assert re.search(output, answer), answer
    assert answer.startswith('{\n    "model_name": "python_model",\n    "model_version": "1",\n')
    outputs = {output["name"]: output["data"] for output in json.loads(answer)["outputs"]}
    [completion], count = infer(unary_server, RELATIVITY)
    assert outputs == {"completion": [completion], "token_count": [count]}


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ([""], "prompt 1 of 1 is empty"),
        ([b"\xff\xfe"], "element 1 of pre_prompt is not UTF-8"),
        (["fine", "a\0b"], "prompt 2 of 2 contains a null byte"),
        ([f"{'word ' * 8200}"], "a prompt has 8231 tokens, but prompt and completion share a context of 8192"),
        (["Hello"] * 33, "33 prompts, but MAX_PROMPTS_PER_REQUEST is 32"),
    ],
)
def test_a_request_that_cannot_be_served_says_why_and_harms_nobody(unary_server, prompts, says):
    with pytest.raises(InferenceServerException) as error:
        infer(unary_server, *prompts)
    assert error.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert says in error.value.message()
    infer(unary_server, "Hello")


def test_a_model_folder_that_is_not_there_leaves_the_graph_unavailable_and_says_which(tmp_path):
    with serve(ROOT / "servable_unary", env={"MODEL_PATH": str(tmp_path / "gone")}) as server:
        with InferenceServerClient(server.grpc_url) as client:
            assert client.is_server_live()
            assert not client.is_model_ready("python_model")
        assert f"{tmp_path / 'gone'} is not a folder" in server.log


def test_a_bad_setting_leaves_the_graph_unavailable_and_says_which():
    with serve(ROOT / "servable_unary", env={"TOP_P": "2"}) as server:
        assert "TOP_P is '2'" in server.log
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{server.rest_url}/v2/models/python_model/ready")


def test_another_label_than_the_folders_is_a_warning(int8_model):
    env = {"MODEL_PATH": str(int8_model), "ENGINE": "genai", "MAX_NEW_TOKENS": "1"}
    with serve(ROOT / "servable_unary", env=env | {"SELECTED_MODEL": "tiny-llama-1b-chat"}) as server:
        assert f"SELECTED_MODEL is tiny-llama-1b-chat, but {int8_model} holds smollm2-135m-instruct" in server.log
        infer(server, "Hello")
