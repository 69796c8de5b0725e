import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tritonclient.http as tritonhttp
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import service_pb2 as pb

from tests.support.kserve_requests import Stream, request
from tests.support.text import edited

pytestmark = pytest.mark.slow

ECHO = "/v2/models/echo/infer"


@pytest.fixture
def rest(server):
    """Send a request; return status, headers and body."""

    def send(path, body=None, method=None, headers=()):
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
        message = urllib.request.Request(server.rest_url + path, body, dict(headers), method=method)
        try:
            with urllib.request.urlopen(message, timeout=60) as response:
                return response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    return send


@pytest.fixture
def infer(rest):
    """Send an input to the echo graph as JSON; return the output, or the status and text of the error."""

    def send(datatype, shape, data, path=ECHO, **rest_of_request):
        message = {"inputs": [{"name": "in", "datatype": datatype, "shape": shape, "data": data}]} | rest_of_request
        status, _, body = rest(path, message)
        return json.loads(body)["outputs"][0]["data"] if status == 200 else (status, json.loads(body)["error"])

    return send


# Health and metadata


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", "/v2/models/echo/ready"])
def test_health(rest, path):
    assert rest(path)[0] == 200


def test_server_metadata(rest):
    status, headers, body = rest("/v2")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body)["name"] == "OpenVINO Model Server"


@pytest.mark.parametrize(
    "version", ["", "/versions/1", "/versions/7", "/versions/9223372036854775807", "/versions/" + "0" * 5000]
)
def test_routes_of_a_model_with_and_without_version(rest, version):
    status, _, body = rest(f"/v2/models/pair{version}")
    assert status == 200
    assert json.loads(body) == {
        "name": "pair",
        "versions": ["1"],
        "platform": "OpenVINO",
        "inputs": [{"name": name, "datatype": "INVALID", "shape": []} for name in ("first", "second")],
        "outputs": [{"name": "out", "datatype": "INVALID", "shape": []}],
    }
    assert rest(f"/v2/models/pair{version}/ready")[0] == 200
    body = {"inputs": [{"name": "in", "datatype": "INT32", "shape": [1], "data": [1]}]}
    assert rest(f"/v2/models/echo{version}/infer", body)[0] == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/models/nope", 404),
        ("/v2/models/nope/ready", 404),
        ("/v2/models/nope/versions/99999999999999999999", 404),
        ("/v2/models/echo/versions/9223372036854775808", 404),
        ("/v2/models/echo/versions/" + "9" * 5000, 404),
        ("/v2/models/broken", 500),
        ("/v2/models/broken/ready", 404),
        ("/", 400),
        ("/v3/models/nope", 500),
        ("/v1/models/broken", 500),
        ("/v1/configuration", 400),
        ("/v2/models/../models/echo", 400),
        ("/v2/", 400),
        ("/v2/models", 400),
        ("/v2/models/echo/versions/x/ready", 400),
        ("/v2/models/echo/other", 400),
        (ECHO, 406),
        ("/v1/config/reload", 406),
    ],
)
def test_errors_of_get(rest, path, status):
    got, headers, body = rest(path)
    assert (got, headers["Content-Type"]) == (status, "application/json")
    assert set(json.loads(body)) == {"error"}


GET_PATHS = [
    "/v2",
    "/v2/health/live",
    "/v2/models/echo",
    "/v2/models/echo/ready",
    "/metrics",
    "/v1/config",
    "/v3/models",
]


@pytest.mark.parametrize("path", GET_PATHS)
def test_a_post_to_what_is_read_is_refused(rest, path):
    assert rest(path, method="POST")[0] == 406


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "PATCH", "TRACE", "NONSENSE"])
@pytest.mark.parametrize("path", ["/v2", "/v2/models/nope", "/no/such/path", ECHO])
def test_other_methods_are_refused_on_every_path(rest, path, method):
    assert rest(path, method=method)[0] == 406


@pytest.mark.parametrize("path", ["/v2", "/no/such/path", ECHO])
def test_options_are_answered_on_every_path(rest, path):
    status, headers, body = rest(path, method="OPTIONS", headers={"Origin": "http://example.com"})
    assert (status, body) == (200, b"")
    assert not [name for name in headers if name.startswith("Access-Control")]


def test_a_slash_behind_a_models_name_changes_nothing(rest):
    assert rest("/v2/models/echo/")[::2] == rest("/v2/models/echo")[::2]
    assert rest("/v2/models/echo/versions/1/")[0] == 200
    assert rest("/v2/models/echo/ready/")[0] == 400


@pytest.mark.parametrize("path", ["/v3/models", "/v1/models"])
def test_models_are_listed_as_openai_does(rest, path):
    before = time.time()
    answer = json.loads(rest(path)[2])
    assert answer["object"] == "list"
    assert [model["id"] for model in answer["data"]] == ["chain", "echo", "pair", "scripted", "stream"]
    model = json.loads(rest(f"{path}/echo")[2])
    assert set(model) == {"id", "object", "created", "owned_by"}
    assert (model["id"], model["object"], model["owned_by"]) == ("echo", "model", "OVMS")
    assert before - 1 <= model["created"] <= time.time()
    assert json.loads(rest(f"{path}/nope")[2]) == {"error": "Model not found"}


def test_config_says_what_became_of_each_graph(rest):
    status, headers, body = rest("/v1/config")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    states = json.loads(body)
    assert list(states) == ["broken", "chain", "echo", "pair", "scripted", "stream"]
    for name, state, code in (("echo", "AVAILABLE", "OK"), ("broken", "LOADING", "FAILED_PRECONDITION")):
        version = {"version": "1", "state": state, "status": {"error_code": code, "error_message": code}}
        assert states[name] == {"model_version_status": [version]}
    assert rest("/v1/config/reload", b"")[::2] == (200, body), "there is nothing to reload"


# Infer


def test_the_layout_is_that_of_the_demo(rest):
    body = {"id": "7", "inputs": [{"name": "in", "shape": [2], "datatype": "BYTES", "data": ['say "hi"', "né"]}]}
    status, headers, answer = rest(ECHO, body)
    assert (status, headers["Content-Type"]) == (200, "application/json")
    lines = answer.decode().splitlines()
    assert lines[:5] == [
        "{",
        '    "model_name": "echo",',
        '    "id": "7",',
        '    "model_version": "1",',
        '    "parameters": {',
    ]
    assert lines[6:] == [
        "    },",
        '    "outputs": [{',
        '            "name": "out",',
        '            "shape": [2],',
        '            "datatype": "BYTES",',
        '            "data": ["say \\"hi\\"", "né"]',
        "        }]",
        "}",
    ]
    assert "id" not in json.loads(rest(ECHO, {"inputs": body["inputs"]})[2])
    assert isinstance(json.loads(answer)["parameters"]["OVMS_MP_TIMESTAMP"], int)


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("BOOL", [True, False]),
        ("INT8", [-128, 127]),
        ("INT16", [-(2**15), 2**15 - 1]),
        ("INT32", [-(2**31), 2**31 - 1]),
        ("INT64", [-(2**31), 2**31 - 1]),
        ("UINT8", [0, 255]),
        ("UINT16", [0, 2**16 - 1]),
        ("UINT32", [0, 2**32 - 1]),
        ("UINT64", [0, 2**32 - 1]),
        ("FP32", [0.5, -3]),
        ("FP64", [0.5, -3]),
        ("BYTES", ["", "two words"]),
    ],
)
def test_every_datatype_passes_flat_and_nested(infer, datatype, values):
    assert infer(datatype, [2], values) == values
    assert infer(datatype, [1, 2, 1], [[[values[0]], [values[1]]]]) == values


@pytest.mark.parametrize(
    ("datatype", "sent", "got"),
    [
        ("INT8", 300, 44), ("INT8", -129, 127), ("INT8", 2**31 - 1, -1), ("INT16", 65535, -1), ("INT16", -(2**31), 0),
        ("UINT8", 300, 44), ("UINT8", 2**32 - 1, 255), ("UINT16", 65536, 0), ("UINT16", 2**32 - 1, 65535),
    ],
)  # fmt: skip
def test_small_integers_wrap(infer, datatype, sent, got):
    assert infer(datatype, [1], [sent]) == [got]


def test_fp64_passes_through_single_precision(infer):
    assert infer("FP64", [2], [0.1, 16777217]) == [float(np.float32(0.1)), 16777216.0]


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("FP16", 1), ("BF16", 1), ("MYTYPE", 1),
        ("INT64", 2**31), ("INT64", -(2**31) - 1), ("UINT64", 2**32), ("UINT64", -1), ("INT32", 2**31),
        ("UINT8", 2**32), ("UINT8", -1), ("UINT16", -2), ("INT8", 3_000_000_000), ("INT16", 2**31),
        ("INT32", "1"), ("INT32", True), ("INT32", 1.0), ("INT32", None), ("INT32", {}), ("FP32", "1"), ("FP32", True),
        ("BOOL", 1), ("BOOL", "true"), ("BYTES", 1), ("BYTES", None), ("BYTES", True), ("INT64", 10**40),
    ],
)  # fmt: skip
def test_values_that_do_not_fit_are_refused(infer, datatype, value):
    status, error = infer(datatype, [1], [value])
    assert status == 400
    assert error


@pytest.mark.parametrize("dimension", [-1, 2**31, 1.0, "1", None, True, [1]])
def test_dimensions_that_are_none_are_refused(infer, dimension):
    assert infer("INT32", [dimension], [1])[0] == 400


def test_the_shape_must_fit_the_data(infer):
    for shape in ([], [2], [1, 0], [2**31 - 1] * 4):
        status = infer("INT32", shape, [1, 2, 3])[0]
        assert status == 400


INPUT = {"name": "in", "datatype": "INT32", "shape": [1], "data": [1]}


def nested(depth):
    """Return a request whose JSON is nested to this depth."""
    arrays = b"[" * (depth - 3) + b"1" + b"]" * (depth - 3)
    return edited(json.dumps({"inputs": [INPUT]}).encode(), b"[1]}", arrays + b"}")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 412), (b"{", 412), (b"\xff", 412), (b'{"inputs": NaN}', 412), (b"hello", 412), (b'{"a": 1} x', 412),
        (b'{"a": 1e400}', 412), ({"inputs": [INPUT], "id": "\ud800"}, 412),
        ({"inputs": [INPUT | {"datatype": "FP32", "data": [10**400]}]}, 412), (b'{"a": 1' + b"0" * 4400 + b"}", 412),
        ({"inputs": [INPUT | {"shape": [2**31 - 1] * 500}]}, 400),
        (b"[]", 400), (b"1", 400), (b"null", 400), (b"{}", 400),
        ({"inputs": []}, 400), ({"inputs": {}}, 400), ({"inputs": [1]}, 400), ({"inputs": [{}]}, 400),
        ({"inputs": [INPUT | {"name": 1}]}, 400), ({"inputs": [INPUT | {"datatype": 1}]}, 400),
        ({"inputs": [INPUT | {"shape": 1}]}, 400), ({"inputs": [INPUT | {"data": 1}]}, 400),
        ({"inputs": [INPUT | {"data": {}}]}, 400), ({"inputs": [INPUT | {"parameters": 1}]}, 400),
        ({"inputs": [INPUT | {"name": "other"}]}, 400), ({"inputs": [INPUT, INPUT]}, 400),
        ({"inputs": [INPUT], "id": 1}, 400), ({"inputs": [INPUT], "outputs": {}}, 400),
        ({"inputs": [INPUT], "outputs": [{}]}, 400), ({"inputs": [INPUT], "parameters": []}, 400),
        ({"inputs": [INPUT], "parameters": {"a": 1.5}}, 400),
        ({"inputs": [INPUT], "parameters": {"OVMS_MP_TIMESTAMP": "1"}}, 500),
        ({"inputs": [INPUT], "parameters": {"OVMS_MP_TIMESTAMP": True}}, 500),
        ({"inputs": [INPUT], "parameters": {"OVMS_MP_TIMESTAMP": 2**31}}, 400),
        ({"inputs": [INPUT], "parameters": {"a": -(2**31) - 1}}, 400),
        ({"inputs": [INPUT], "parameters": {"py": 1}}, 500),
        ({"inputs": [{"name": "in", "datatype": "INT32", "shape": [1]}]}, 400),
        ({"inputs": [{"name": "in", "datatype": "BYTES", "shape": [2]}]}, 400),
        (json.dumps({"inputs": [INPUT]}).encode("utf-16"), 412), (b"\xef\xbb\xbf{}", 412),
        (nested(101), 500), (nested(100_000), 500), (b"[" * 101, 500), (b"[" * 100, 412), (b"[" * 100 + b"{", 500),
        # What comes first counts, the depth or a syntax error.
        (b"[" * 101 + b"x", 500), (b"x" + b"[" * 101, 412), (b"[1 " + b"[" * 101, 412), (b'{"a":]' + b"[" * 101, 412),
        (b'{"a": "' + b"[" * 101, 412), (b"{} " + b"[" * 101, 412), (b"[" * 100 + b"x[", 412),
        ('["ä", '.encode() + b"[" * 100, 500), ('["ä", x'.encode() + b"[" * 100, 412),
    ],
)  # fmt: skip
def test_malformed_bodies(rest, body, status):
    got, headers, answer = rest(ECHO, body)
    assert (got, headers["Content-Type"]) == (status, "application/json")
    assert json.loads(answer)["error"]


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": {"a": "text", "b": -(2**31), "c": True}},
        {"id": "x", "outputs": [], "more": None},
        {"inputs": [INPUT | {"shape": [0], "data": []}]},
        {"inputs": [{"name": "in", "datatype": "INT32", "shape": [0]}]},
        {"inputs": [INPUT | {"shape": [2], "data": [[1], [[2]]]}]},
    ],
)
def test_what_else_a_request_may_say(rest, change):
    assert rest(ECHO, {"inputs": [INPUT]} | change)[0] == 200


def test_json_may_be_nested_100_deep(rest):
    status, _, answer = rest(ECHO, nested(100))
    assert (status, json.loads(answer)["outputs"][0]["data"]) == (200, [1])
    brackets = {"inputs": [INPUT | {"datatype": "BYTES", "data": ["[{" * 200 + '\\"[']}]}
    assert rest(ECHO, brackets)[0] == 200, "brackets in strings don't count"


def test_the_first_of_equal_keys_counts(rest):
    status, _, answer = rest(
        ECHO, json.dumps({"inputs": [INPUT], "id": "a"}).encode()[:-1] + b', "id": "b", "inputs": 1}'
    )
    assert (status, json.loads(answer)["id"]) == (200, "a")


def test_a_string_ends_at_its_first_null_character(infer, rest):
    assert infer("BYTES", [2], ["ab\0cd", "\0"]) == ["ab", ""]
    body = {"inputs": [INPUT | {"name": "in\0x", "datatype": "INT32\0"}], "id": "7\0\0", "parameters": {"a\0": "b\0"}}
    status, _, answer = rest(ECHO, body)
    assert (status, json.loads(answer)["id"]) == (200, "7")
    assert rest(ECHO, json.dumps({"inputs": [INPUT]}).encode() + b"\0 rest")[0] == 200


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "nonsense"])
def test_the_content_type_does_not_matter(rest, content_type):
    assert rest(ECHO, {"inputs": [INPUT]}, headers={"Content-Type": content_type})[0] == 200


def test_unknown_and_broken_graphs_and_failing_nodes(infer, rest):
    for model in ("nope", "broken"):
        assert rest(f"/v2/models/{model}/infer", b"")[0] == 412, "the body is read first"
        assert rest(f"/v2/models/{model}/infer", {})[0] == 400
    order = ["BYTES", [1], [json.dumps({"raise": "on purpose"})]]
    assert infer(*order, path="/v2/models/nope/infer") == (
        404,
        "Mediapipe graph definition with requested name is not found",
    )
    assert infer(*order, path="/v2/models/broken/infer") == (500, "Mediapipe is not loaded yet")
    status, error = infer(*order, path="/v2/models/scripted/infer")
    assert status == 400
    assert error == (
        "Mediapipe execution failed. MP status - INTERNAL: CalculatorGraph::Run() failed: \n"
        'Calculator::Process() for node "scripted_node" failed: Error occurred during graph execution: '
        "RuntimeError: on purpose"
    )


def timestamp(rest, **parameters):
    answer = rest(ECHO, {"inputs": [INPUT], "parameters": parameters})[2]
    return json.loads(answer)["parameters"]["OVMS_MP_TIMESTAMP"]


def test_a_timestamp_comes_back_as_its_lower_half(rest):
    assert timestamp(rest, OVMS_MP_TIMESTAMP=-42) == -42
    before = time.time_ns() // 1000
    lower_half = timestamp(rest)
    passed = (lower_half - before) % 2**32
    assert 0 <= passed <= time.time_ns() // 1000 - before
    assert -(2**31) <= lower_half < 2**31


@pytest.mark.parametrize("binary_data", [False, True])
@pytest.mark.parametrize(
    ("order", "status"),
    [
        ({"make": "array", "dtype": "float16", "values": [1]}, 400),
        ({"make": "array", "dtype": "int64", "values": [1]}, 500),  # reported as INT32, with 8 bytes
        ({"make": "array", "dtype": "int32", "values": [1], "shape": [2]}, 500),
        ({"make": "array", "dtype": "int32", "values": [1], "shape": [-1]}, 500),
        ({"make": "array", "dtype": "int32", "values": [1], "datatype": "X"}, 500),
        ({"make": "array", "dtype": "int32", "values": [], "datatype": "X"}, 400),
    ],
)
def test_outputs_that_are_refused(infer, order, status, binary_data):
    outputs = [{"name": "out", "parameters": {"binary_data": binary_data}}]
    assert infer("BYTES", [1], [json.dumps(order)], "/v2/models/scripted/infer", outputs=outputs)[0] == status


@pytest.mark.parametrize(
    ("order", "status"),
    [
        ({"make": "bytes", "size": 3, "datatype": "BYTES"}, 500),
        ({"make": "array", "dtype": "float32", "values": [float("inf")]}, 400),
    ],
)
def test_outputs_that_are_refused_in_json_alone(infer, rest, order, status):
    answer = infer("BYTES", [1], [json.dumps(order)], "/v2/models/scripted/infer")
    assert answer[0] == status
    inputs = [{"name": "in", "datatype": "BYTES", "shape": [1], "data": [json.dumps(order)]}]
    asked = {"inputs": inputs, "parameters": {"binary_data_output": True}}
    assert rest("/v2/models/scripted/infer", asked)[0] == 200


# The binary extension


def binary(rest, header, data, path=ECHO):
    text = json.dumps(header).encode()
    return rest(path, text + data, headers={"Inference-Header-Content-Length": str(len(text))})


def test_binary_inputs_with_and_without_a_size(rest):
    tensor = {"name": "in", "datatype": "INT32", "shape": [2]}
    for parameters in ({"parameters": {"binary_data_size": 8}}, {}):
        status, _, body = binary(rest, {"inputs": [tensor | parameters]}, np.array([1, -2], np.int32).tobytes())
        assert (status, json.loads(body)["outputs"][0]["data"]) == (200, [1, -2])
    status, _, body = binary(rest, {"inputs": [{"name": "in", "datatype": "BYTES", "shape": [1]}]}, b"\2\0\0\0ab")
    assert (status, json.loads(body)["outputs"][0]["data"]) == (200, ["ab"])


def test_binary_inputs_follow_each_other(rest):
    names = ["second", "first"]
    inputs = [{"name": n, "datatype": "X", "shape": [1], "parameters": {"binary_data_size": 3}} for n in names]
    status, _, body = binary(rest, {"inputs": inputs}, b"abcdef", "/v2/models/pair/infer")
    assert (status, json.loads(body)["outputs"][0]["data"]) == (200, ["second first"])


@pytest.mark.parametrize(
    ("outputs", "parameters"),
    [
        ([{"name": "out", "parameters": {"binary_data": True}}], {}),
        ([], {"binary_data_output": True}),
        ([{"name": "out"}], {"binary_data_output": True}),
    ],
)
def test_binary_outputs(rest, outputs, parameters):
    body = {"inputs": [INPUT], "outputs": outputs, "parameters": parameters}
    status, headers, answer = rest(ECHO, body)
    length = int(headers["Inference-Header-Content-Length"])
    output = json.loads(answer[:length])["outputs"][0]
    assert (status, headers["Content-Type"], output["parameters"]) == (200, "application/json", {"binary_data_size": 4})
    assert "data" not in output
    assert answer[length:] == b"\1\0\0\0"


def test_an_output_may_be_left_out_of_the_binary_ones(rest):
    outputs = [{"name": "out", "parameters": {"binary_data": False}}]
    status, headers, _ = rest(ECHO, {"inputs": [INPUT], "outputs": outputs, "parameters": {"binary_data_output": True}})
    assert status == 200
    assert "Inference-Header-Content-Length" not in headers


BINARY = {"name": "in", "datatype": "INT32", "shape": [2]}


@pytest.mark.parametrize(
    ("tensor", "data"),
    [
        (BINARY, b"1234567"),
        (BINARY | {"parameters": {"binary_data_size": 9}}, b"12345678"),
        (BINARY | {"parameters": {"binary_data_size": -1}}, b"12345678"),
        (BINARY | {"parameters": {"binary_data_size": "8"}}, b"12345678"),
        (BINARY | {"parameters": {"binary_data_size": 4}}, b"12345678"),
        (BINARY | {"datatype": "BYTES"}, b"12345678"),
        (BINARY | {"datatype": "MYTYPE"}, b"12345678"),
    ],
)
def test_malformed_binary_inputs(rest, tensor, data):
    assert binary(rest, {"inputs": [tensor]}, data)[0] == 400


def test_data_in_both_places_is_an_error_of_the_server(rest):
    tensor = BINARY | {"parameters": {"binary_data_size": 8}}
    assert binary(rest, {"inputs": [tensor | {"data": [1, 2]}]}, b"12345678")[0] == 500
    assert binary(rest, {"inputs": [tensor | {"data": []}]}, b"12345678")[0] == 200


def test_json_and_binary_inputs_do_not_mix(rest):
    inputs = [INPUT | {"name": "first"}, BINARY | {"name": "second"}]
    assert binary(rest, {"inputs": inputs}, b"12345678", "/v2/models/pair/infer")[0] == 400


@pytest.mark.parametrize("length", ["-1", "x", "99999", "1e1", "²"])
def test_a_wrong_header_length(rest, length):
    headers = {"Inference-Header-Content-Length": length}
    assert rest(ECHO, {"inputs": [INPUT]}, headers=[(n, v.encode("latin-1")) for n, v in headers.items()])[0] == 500


# Real clients


@pytest.mark.parametrize("binary_data", [True, False])
def test_triton_http_client(server, binary_data):
    with tritonhttp.InferenceServerClient(server.rest_url.removeprefix("http://")) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("echo")
        assert client.get_model_metadata("echo")["inputs"][0]["name"] == "in"
        for array, datatype in [
            (np.arange(6, dtype=np.int32).reshape(2, 3), "INT32"),
            (np.array([0.5, 2], np.float64), "FP64"),
            (np.array(["text", "née"], object), "BYTES"),
        ]:
            tensor = tritonhttp.InferInput("in", list(array.shape), datatype)
            tensor.set_data_from_numpy(array, binary_data=binary_data)
            output = tritonhttp.InferRequestedOutput("out", binary_data=binary_data)
            for outputs in (None, [output]):
                got = client.infer("echo", [tensor], outputs=outputs, request_id="5").as_numpy("out")
                if datatype == "BYTES":
                    got = np.array([value.decode() if isinstance(value, bytes) else value for value in got], object)
                np.testing.assert_array_equal(got, array)


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl_as_in_the_demo(server):
    tensor = '{"inputs":[{"name" : "in", "shape" : [1], "datatype" : "BYTES", "data" : ["What is the theory?"]}]}'
    command = ["curl", "-s", "--header", "Content-Type: application/json", "--data", tensor, server.rest_url + ECHO]
    answer = subprocess.run(command, capture_output=True, check=True).stdout
    assert json.loads(answer)["outputs"][0]["data"] == ["What is the theory?"]


def test_bodies_of_100_mib(rest):
    data = np.zeros(25 << 20, np.float32)
    status, headers, answer = binary(
        rest,
        {
            "inputs": [{"name": "in", "datatype": "FP32", "shape": [data.size]}],
            "parameters": {"binary_data_output": True},
        },
        data.tobytes(),
    )
    assert status == 200
    assert len(answer) == int(headers["Inference-Header-Content-Length"]) + data.nbytes
    text = "x" * (100 << 20)
    status, _, answer = rest(ECHO, {"inputs": [{"name": "in", "datatype": "BYTES", "shape": [1], "data": [text]}]})
    assert (status, len(json.loads(answer)["outputs"][0]["data"][0])) == (200, len(text))


def test_a_body_above_the_limit_is_refused_without_being_kept(server):
    with socket.create_connection(("127.0.0.1", server.rest_port), 60) as connection:
        connection.sendall(f"POST {ECHO} HTTP/1.1\r\nHost: x\r\nContent-Length: {(1 << 30) + 1}\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("head", ["GARBAGE", f"POST {ECHO} HTTP/1.1\r\nHost: x\r\nContent-Length: many"])
def test_what_is_no_http_is_a_bad_request(server, head):
    with socket.create_connection(("127.0.0.1", server.rest_port), 60) as connection:
        connection.sendall(f"{head}\r\n\r\n".encode())
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400")
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"error": "Invalid HTTP request received."}


def test_slow_and_half_open_connections_do_not_hold_up_others(server, rest):
    parts = [b"", b"POST", f"POST {ECHO} HTTP/1.1\r\nContent-Length: 100\r\n\r\n{{".encode(), b"\x00" * 100]
    connections = [socket.create_connection(("127.0.0.1", server.rest_port)) for _ in range(200)]
    try:
        for number, connection in enumerate(connections):
            connection.sendall(parts[number % len(parts)])
        assert rest(ECHO, {"inputs": [INPUT]})[0] == 200
        assert rest("/v2/health/ready")[0] == 200
    finally:
        for connection in connections:
            connection.close()
    assert rest(ECHO, {"inputs": [INPUT]})[0] == 200


def test_a_client_that_leaves_in_the_middle_is_no_error(server, rest):
    with socket.create_connection(("127.0.0.1", server.rest_port)) as connection:
        connection.sendall(f"POST {ECHO} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
    assert rest("/v2/health/live")[0] == 200
    assert "ASGI" not in server.log


# Metrics


def samples(rest) -> Counter:
    """Return the values summed over all graphs, without the histograms' buckets."""
    sums = Counter()
    for family in text_string_to_metric_families(rest("/metrics")[2].decode()):
        for sample in family.samples:
            if "le" not in sample.labels:
                labels = sample.labels
                sums[sample.name.removesuffix("_total"), labels.get("interface"), labels.get("method")] += sample.value
    return sums


def test_metrics(rest, infer, stub):
    def ask(order, **options):
        return infer("BYTES", [1], [json.dumps(order)], path="/v2/models/scripted/infer", **options)

    ask({"make": "text"})
    before = samples(rest)
    ask({"make": "text"})
    ask({"make": "text"}, inputs=[])
    infer("INT32", [1], [1], path="/v2/models/scripted/infer", inputs=[INPUT | {"name": "other"}])
    ask({"raise": "x"})
    stream = Stream(stub)
    stream.send(request("stream", {"count": 3}))
    assert stream.read_text() == "out 0"
    assert (samples(rest) - before)["ovms_current_graphs", None, None] == 1
    stream.half_close()
    assert len(stream.read_all()) == 2
    after = samples(rest)

    def grown(name, interface="REST", method="ModelInfer"):
        return after[name, interface, method] - before[name, interface, method]

    assert grown("ovms_requests_accepted") == 2
    assert grown("ovms_requests_rejected") == 1, "a body that is no request is nobody's"
    assert grown("ovms_responses") == 1
    assert grown("ovms_graph_error") == 1
    assert grown("ovms_requests_accepted", "gRPC", "ModelInferStream") == 1
    assert grown("ovms_responses", "gRPC", "ModelInferStream") == 3
    assert grown("ovms_graph_processing_time_us_count", None) == 1, "of those that did not fail"
    assert grown("ovms_graph_processing_time_us_count", None, "ModelInferStream") == 1
    assert "ovms_graph_request_latency_us_count" not in {name for name, _, _ in after}
    text = rest("/metrics")[2].decode()
    assert 'ovms_requests_accepted{api="KServe",interface="gRPC",method="ModelInfer",name="broken"} 0.0' in text
    assert 'ovms_requests_accepted{api="KServe",interface="REST",method="ModelInfer",name="scripted"}' in text
    assert "# TYPE ovms_requests_accepted counter" in text


def test_metrics_of_readiness_and_metadata(rest, stub):
    before = samples(rest)
    for name in ("echo", "broken", "nope"):
        rest(f"/v2/models/{name}/ready")
        rest(f"/v2/models/{name}")
        with contextlib.suppress(grpc.RpcError):
            stub.ModelReady(pb.ModelReadyRequest(name=name))
        with contextlib.suppress(grpc.RpcError):
            stub.ModelMetadata(pb.ModelMetadataRequest(name=name))
    grown = samples(rest) - before
    for interface in ("gRPC", "REST"):
        assert grown["ovms_requests_success", interface, "ModelReady"] == 2
        assert grown["ovms_requests_success", interface, "ModelMetadata"] == 1
        assert grown["ovms_requests_fail", interface, "ModelMetadata"] == 1
        assert grown["ovms_requests_fail", interface, "ModelReady"] == 0


def test_the_buckets_of_the_histogram_are_the_servers(rest):
    families = text_string_to_metric_families(rest("/metrics")[2].decode())
    [processing] = [family for family in families if family.name == "ovms_graph_processing_time_us"]
    labels = {"method": "ModelInfer", "name": "echo"}
    bounds = [s.labels["le"] for s in processing.samples if "le" in s.labels and labels.items() <= s.labels.items()]
    assert len(bounds) == 33 + 1
    assert [float(bound) for bound in (*bounds[:4], bounds[32], bounds[33])] == [
        10,
        18,
        32,
        58,
        1474755971,
        float("inf"),
    ]


def test_parallel_clients_get_their_own_answers(infer):
    def ask(number):
        return infer("INT32", [1], [number]) == [number]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(200)))
