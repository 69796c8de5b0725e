import contextlib
import os
import time
from concurrent.futures import ThreadPoolExecutor, wait

import grpc
import numpy as np
import pytest
import tritonclient.grpc as tritongrpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

from ovms_local.testing import serve
from tests.support.kserve_requests import (
    EXECUTION_FAILED,
    UNKNOWN_ERROR,
    Stream,
    request,
    status_of,
    timestamp_of,
    triton_inputs,
    with_parameter,
)
from tests.support.servables import NODE

pytestmark = pytest.mark.slow

BOTH_CONTENTS = (
    "Passing buffers both in ModelInferRequest::InferInputTensor::contents and in "
    "ModelInferRequest::raw_input_contents is not allowed"
)
ECHO = """
class OvmsPythonModel:
    def execute(self, inputs):
        from pyovms import Tensor
        return [Tensor("out", inputs[0].data, inputs[0].shape, inputs[0].datatype)]
"""


def describe_raw(stub, datatype, shape, data):
    message = pb.ModelInferRequest(model_name="echo", raw_input_contents=[data])
    message.inputs.add(name="in", datatype=datatype, shape=shape)
    return stub.ModelInfer(message)


# Health and metadata


def test_server_is_live_ready_and_says_what_it_is(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    metadata = client.get_server_metadata()
    assert metadata.name == "OpenVINO Model Server"
    assert metadata.version


def test_model_ready_knows_loaded_broken_and_unknown_graphs(client, stub):
    assert client.is_model_ready("echo")
    assert client.is_model_ready("echo", "7")  # versions are ignored
    assert not client.is_model_ready("broken")
    assert status_of(lambda: stub.ModelReady(pb.ModelReadyRequest(name="nope")))[0] == grpc.StatusCode.NOT_FOUND


def test_metadata_of_a_graph_lists_its_streams_sorted(client):
    metadata = client.get_model_metadata("pair")
    assert (metadata.name, list(metadata.versions), metadata.platform) == ("pair", ["1"], "OpenVINO")
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs] == [
        ("first", "INVALID", []),
        ("second", "INVALID", []),
    ]
    assert [tensor.name for tensor in metadata.outputs] == ["out"]


def test_metadata_of_broken_and_unknown_graphs(stub):
    codes = [status_of(lambda n=n: stub.ModelMetadata(pb.ModelMetadataRequest(name=n)))[0] for n in ("broken", "nope")]
    assert codes == [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND]


# Unary calls


def test_infer_echoes_id_and_names_the_model_and_the_time(client):
    before = time.time_ns() // 1000
    response = client.infer("echo", triton_inputs("hello"), request_id="abc", model_version="9").get_response()
    assert (response.id, response.model_name, response.model_version) == ("abc", "echo", "1")
    assert before <= response.parameters["OVMS_MP_TIMESTAMP"].int64_param <= time.time_ns() // 1000
    assert list(response.raw_output_contents) == [b"\x05\0\0\0hello"]
    assert (response.outputs[0].name, response.outputs[0].datatype, list(response.outputs[0].shape)) == (
        "out", "BYTES", [1],
    )  # fmt: skip


def test_timestamp_of_a_request_is_that_of_its_response(stub):
    response = stub.ModelInfer(request("echo", "x", timestamp=12345))
    assert response.parameters["OVMS_MP_TIMESTAMP"].int64_param == 12345


@pytest.mark.parametrize(
    ("datatype", "dtype"),
    [
        ("BOOL", np.bool_), ("INT8", np.int8), ("INT16", np.int16), ("INT32", np.int32), ("INT64", np.int64),
        ("UINT8", np.uint8), ("UINT16", np.uint16), ("UINT32", np.uint32), ("UINT64", np.uint64),
        ("FP16", np.float16), ("FP32", np.float32), ("FP64", np.float64),
    ],
)  # fmt: skip
def test_every_datatype_passes_through_raw(client, datatype, dtype):
    array = np.array([[0, 1, 2], [3, 4, 5]], dtype)
    tensor = tritongrpc.InferInput("in", array.shape, datatype)
    tensor.set_data_from_numpy(array)
    result = client.infer("echo", [tensor])
    assert result.get_output("out").datatype == datatype
    np.testing.assert_array_equal(result.as_numpy("out"), array)


@pytest.mark.parametrize(
    ("datatype", "field", "values", "dtype"),
    [
        ("BOOL", "bool_contents", [True, False], np.bool_),
        ("INT8", "int_contents", [-1, 127], np.int8),
        ("INT16", "int_contents", [-1, 32767], np.int16),
        ("INT32", "int_contents", [-1, 2**31 - 1], np.int32),
        ("INT64", "int64_contents", [-1, 2**63 - 1], np.int64),
        ("UINT8", "uint_contents", [0, 255], np.uint8),
        ("UINT16", "uint_contents", [0, 65535], np.uint16),
        ("UINT32", "uint_contents", [0, 2**32 - 1], np.uint32),
        ("UINT64", "uint64_contents", [0, 2**64 - 1], np.uint64),
        ("FP32", "fp32_contents", [0.5, -1.25], np.float32),
        ("FP64", "fp64_contents", [0.1, -1e300], np.float64),
    ],
)
def test_every_datatype_passes_through_typed_contents(stub, datatype, field, values, dtype):
    message = pb.ModelInferRequest(model_name="echo")
    tensor = message.inputs.add(name="in", datatype=datatype, shape=[2])
    getattr(tensor.contents, field).extend(values)
    response = stub.ModelInfer(message)
    assert response.outputs[0].datatype == datatype
    assert response.raw_output_contents[0] == np.array(values, dtype).tobytes()


def test_typed_bytes_are_packed_and_raw_ones_passed_on_as_they_came(stub):
    message = pb.ModelInferRequest(model_name="echo")
    message.inputs.add(name="in", datatype="BYTES", shape=[2]).contents.bytes_contents.extend([b"a", b""])
    assert stub.ModelInfer(message).raw_output_contents[0] == b"\1\0\0\0a\0\0\0\0"
    assert describe_raw(stub, "BYTES", [5], b"\xff no prefix").raw_output_contents[0] == b"\xff no prefix"


@pytest.mark.parametrize("datatype", ["BF16", "MYTYPE", ""])
def test_other_datatypes_pass_as_they_are_in_raw_contents(stub, datatype):
    response = describe_raw(stub, datatype, [3, 7], b"12345")
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == (datatype, [3, 7])
    assert response.raw_output_contents[0] == b"12345"


@pytest.mark.parametrize(("shape", "data"), [([], b"1234"), ([0], b""), ([2, 0, 3], b"")])
def test_scalars_and_empty_tensors(stub, shape, data):
    response = describe_raw(stub, "FP32", shape, data)
    assert list(response.outputs[0].shape) == shape
    assert list(response.raw_output_contents) == [data]


def malformed():
    def message(*inputs, raw=(), name="echo"):
        result = pb.ModelInferRequest(model_name=name, raw_input_contents=raw)
        for input_name, datatype, shape in inputs:
            result.inputs.add(name=input_name, datatype=datatype, shape=shape)
        return result

    int32 = ("in", "INT32", [2])
    count, unexpected = "Invalid number of inputs - ", "Unexpected input - "
    size, values = "Invalid content size of tensor proto - ", "Invalid number of values in tensor proto container - "
    yield "missing input", message(), count
    yield "one input of two", message(("first", "INT32", [2]), raw=[b"12345678"], name="pair"), count
    yield "unexpected input", message(("other", "INT32", [2]), raw=[b"12345678"]), unexpected + "other is unexpected"
    yield "unexpected input that is malformed too", message(("other", "INT32", [-1])), unexpected
    yield "input without a name", message(("", "INT32", [2]), raw=[b"12345678"]), unexpected
    yield "input twice", message(int32, int32, raw=[b"12345678"] * 2), "Mediapipe execution failed. MP status - "
    for raws in (1, 3):
        two = message(("first", "X", []), ("second", "X", []), raw=[b""] * raws, name="pair")
        yield f"{raws} raw contents for 2 inputs", two, BOTH_CONTENTS
    yield "raw contents without an input", message(raw=[b""]), BOTH_CONTENTS
    both = message(int32, raw=[b"12345678"])
    both.inputs[0].contents.int_contents.extend([1, 2])
    yield "both kinds of contents", both, BOTH_CONTENTS
    for datatype in ("INT32", "BYTES"):
        negative = message(("in", datatype, [1, -1]), raw=[b"1234"])
        yield f"negative dimension of {datatype}", negative, "Invalid input shape - Negative dimension"
    yield "negative dimension without contents", message(("in", "INT32", [-1])), "Invalid input shape - "
    yield "buffer too small", message(int32, raw=[b"1234567"]), size
    yield "buffer too large", message(int32, raw=[b"123456789"]), size
    yield "overflow", message(("in", "INT32", [2**62, 2**62]), raw=[b"1234"]), size
    yield "overflow without contents", message(("in", "INT32", [2**62, 2**62])), size
    yield "overflow hidden by zero", message(("in", "INT32", [2**62, 2**62, 0]), raw=[b""]), size
    yield "overflow of BYTES", message(("in", "BYTES", [2**62, 4]), raw=[b""]), size
    yield "overflow to the right size", message(("in", "INT32", [2**32, 2**32, 1]), raw=[b""]), size
    yield "too many dimensions", message(("in", "INT8", [1] * 100), raw=[b"1"]), "Invalid input shape - "
    for datatype in ("FP16", "BF16", "MYTYPE", ""):
        yield f"{datatype} as typed contents", message(("in", datatype, [0])), "Invalid input precision - "
    yield "no contents", message(int32), values
    wrong_field = message(int32)
    wrong_field.inputs[0].contents.fp32_contents.extend([1, 2])
    yield "contents of another datatype", wrong_field, values
    yield "no contents for a shape with a zero", message(("in", "INT32", [2, 0])), size
    empty = message(("in", "FP32", [0]))
    empty.inputs[0].contents.SetInParent()
    yield "typed contents for a shape with a zero", empty, size


@pytest.mark.parametrize(("message", "start"), [pytest.param(m, s, id=i) for i, m, s in malformed()])
def test_malformed_requests_are_invalid_arguments(stub, message, start):
    code, details = status_of(lambda: stub.ModelInfer(message))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith(start)


def test_so_they_are_in_a_stream_which_goes_on(stub):
    stream = Stream(stub)
    for name, message, start in malformed():
        if message.model_name == "echo" and name not in ("missing input", "input twice"):
            stream.send(message)
            assert stream.read_error().startswith(start), name
    stream.send(request("echo", "still here"))
    assert stream.read_text() == "still here"
    stream.half_close()
    assert stream.read_all() == []


def test_bytes_may_be_typed_contents_for_a_shape_with_a_zero(stub):
    message = pb.ModelInferRequest(model_name="echo")
    message.inputs.add(name="in", datatype="BYTES", shape=[0])
    assert list(stub.ModelInfer(message).raw_output_contents) == [b""]


@pytest.mark.parametrize(
    ("field", "value"),
    [("int64_param", 2**63 - 1), ("int64_param", -(2**63)), ("string_param", "5"), ("bool_param", True)],
)
def test_a_malformed_timestamp_is_an_unknown_error(stub, field, value):
    assert status_of(lambda: stub.ModelInfer(with_parameter("OVMS_MP_TIMESTAMP", field, value))) == UNKNOWN_ERROR


@pytest.mark.parametrize("version", ["0", "1", "7", "-3"])
def test_the_version_of_a_request_is_any_number(stub, version):
    assert stub.ModelInfer(request("echo", "x", version=version)).model_version == "1"


@pytest.mark.parametrize("model", ["echo", "nope"])
@pytest.mark.parametrize("version", ["x", "1.0", "1 ", "01", "-", "-0", str(2**63), "9" * 5000])
def test_a_version_that_is_no_number_is_an_invalid_argument(stub, model, version):
    code, _ = status_of(lambda: stub.ModelInfer(request(model, "x", version=version)))
    assert code == grpc.StatusCode.INVALID_ARGUMENT


# Parameters


@pytest.mark.parametrize(("field", "value"), [("string_param", "x"), ("int64_param", 5), ("bool_param", True)])
def test_parameters_have_no_effect(stub, field, value):
    message = with_parameter("name", field, value)
    assert stub.ModelInfer(message).raw_output_contents[0][4:] == b"x"
    stream = Stream(stub)
    stream.send(message)
    assert stream.read_text() == "x"
    stream.half_close()


@pytest.mark.parametrize(("field", "value"), [("double_param", 0.5), ("uint64_param", 5), (None, None)])
def test_parameters_of_other_types_are_an_unknown_error(stub, field, value):
    message = with_parameter("name", field, value)
    assert status_of(lambda: stub.ModelInfer(message)) == UNKNOWN_ERROR
    stream = Stream(stub)
    stream.send(message)
    assert status_of(stream.read) == UNKNOWN_ERROR


def test_one_parameter_is_reserved(stub):
    message = with_parameter("py", "string_param", "x")
    assert status_of(lambda: stub.ModelInfer(message))[0] == grpc.StatusCode.FAILED_PRECONDITION
    stream = Stream(stub)
    stream.send(message)
    assert status_of(stream.read)[0] == grpc.StatusCode.FAILED_PRECONDITION


def test_parameters_of_later_requests_in_a_stream_are_not_looked_at(stub):
    stream = Stream(stub)
    stream.send(request("echo", "x"))
    stream.send(with_parameter("py", "double_param", 0.5))
    stream.half_close()
    assert stream.read_all() == ["x", "x"]


def test_parameters_come_before_timestamps_and_after_graphs(stub):
    message = with_parameter("py", "string_param", "x")
    message.parameters["OVMS_MP_TIMESTAMP"].string_param = "5"
    assert status_of(lambda: stub.ModelInfer(message))[0] == grpc.StatusCode.FAILED_PRECONDITION
    message.model_name = "nope"
    assert status_of(lambda: stub.ModelInfer(message))[0] == grpc.StatusCode.NOT_FOUND


def test_a_pool_of_graphs_takes_no_parameter_but_the_timestamp(make_servable):
    folder = make_servable(ECHO, graph="# OVMS_GRAPH_QUEUE_MAX_SIZE: 2\n" + NODE.format(handler="model.py"))
    with serve(folder) as server, grpc.insecure_channel(server.grpc_url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        good = request("python_model", "x", timestamp=5)
        assert timestamp_of(stub.ModelInfer(good)) == 5
        bad = with_parameter("name", "string_param", "x", "python_model")
        assert status_of(lambda: stub.ModelInfer(bad))[0] == grpc.StatusCode.FAILED_PRECONDITION
        stream = Stream(stub)
        stream.send(bad)
        assert status_of(stream.read)[0] == grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize(("name", "code"), [("nope", "NOT_FOUND"), ("broken", "UNAVAILABLE")])
def test_unknown_and_broken_graphs(stub, name, code):
    malformed = request(name, "x", timestamp=2**63 - 1)
    malformed.inputs[0].contents.int_contents.append(1)
    for message in (request(name, "x"), malformed):
        assert status_of(lambda m=message: stub.ModelInfer(m))[0].name == code


@pytest.mark.parametrize(
    ("order", "cause"),
    [
        ({"raise": "on purpose"}, "RuntimeError: on purpose"),
        ({"raise": "half a pair \ud800"}, r"RuntimeError: half a pair \ud800"),
        ({"mute": 1}, "MuteError"),
        ({"exit": 3}, "SystemExit: 3"),
        ({"make": "number"}, "TypeError: outputs must be Tensors"),
        ({"make": "tuple"}, "TypeError: execute must return a list or be a generator, got tuple"),
        ({"make": "text", "name": "nope"}, "ValueError: 'nope' is not an output"),
        ({"make": "twice"}, "ValueError: the output 'out' was given twice"),
        ({"make": "transposed"}, "ValueError: the buffer of 'out' is not contiguous"),
        ({"yield": 1}, "ValueError: execute yielded, but LOOPBACK is not defined"),
    ],
)
def test_errors_of_a_node_have_the_servers_text_and_the_cause(server, stub, order, cause):
    code, details = status_of(lambda: stub.ModelInfer(request("scripted", order)))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith(EXECUTION_FAILED.format("scripted_node"))
    assert cause in details
    server.wait_for_log(f"node scripted_node failed: {cause}")


def test_a_cause_longer_than_a_status_can_be_is_cut(server, stub):
    for order in ({"raise": "long " * 5000}, {"raise": "é" * 20_000}):
        code, details = status_of(lambda order=order: stub.ModelInfer(request("scripted", order)))
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert details.startswith(EXECUTION_FAILED.format("scripted_node"))
        assert details.endswith("... (cut)")
        assert details[300:320] in order["raise"]
    server.wait_for_log("long " * 5000)


def test_a_missing_output_is_an_error(stub):
    code, details = status_of(lambda: stub.ModelInfer(request("scripted", {"make": "nothing"})))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith("Mediapipe execution failed. MP status - ")


def test_numpy_int64_arrives_as_the_nonsense_of_the_real_server(stub):
    order = {"make": "array", "values": [1, 2], "dtype": "int64"}
    response = stub.ModelInfer(request("scripted", order))
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == ("INT32", [2])
    assert len(response.raw_output_contents[0]) == 16


def test_shape_and_datatype_can_be_overridden(stub):
    order = {"make": "array", "values": [1, 2], "dtype": "int64", "shape": [-1, 2], "datatype": "INT64"}
    output = stub.ModelInfer(request("scripted", order)).outputs[0]
    assert (output.datatype, list(output.shape)) == ("INT64", [-1, 2])


def test_inputs_are_ordered_by_tag(stub):
    message = request("pair", "x", name="first")
    message.inputs.add(name="second", datatype="BYTES", shape=[0]).contents.bytes_contents.extend([])
    assert stub.ModelInfer(message).raw_output_contents[0][4:] == b"second first"


def test_a_unary_call_of_a_generator_gets_the_first_of_each_output(client):
    result = client.infer("stream", triton_inputs({"count": 3, "both": True}))
    assert [result.as_numpy(name)[0] for name in ("out", "other")] == [b"out 0", b"other 0"]


def test_large_messages_pass(stub):
    data = bytes(range(256)) * (100 * 1024 * 4)
    response = describe_raw(stub, "UINT8", [len(data)], data)
    assert response.raw_output_contents[0] == data


def test_methods_of_triton_alone_are_not_implemented(stub):
    for call in (
        lambda: stub.RepositoryIndex(pb.RepositoryIndexRequest()),
        lambda: stub.ModelConfig(pb.ModelConfigRequest(name="echo")),
    ):
        assert status_of(call)[0] == grpc.StatusCode.UNIMPLEMENTED


def test_what_is_no_message_has_grpcs_own_status(server):
    with grpc.insecure_channel(server.grpc_url) as channel:
        unary = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        assert status_of(lambda: unary(b"\xff"))[0] == grpc.StatusCode.UNKNOWN


# Several clients


def test_a_unary_call_past_its_deadline_runs_on_and_harms_nobody(client, stub, gate, events):
    with pytest.raises(InferenceServerException, match="Deadline"):
        client.infer("scripted", triton_inputs({"wait_for": str(gate), "make": "text"}), client_timeout=0.5)
    events.wait_for("waiting")
    assert stub.ModelInfer(request("echo", "x")).raw_output_contents
    gate.write_text("")


def test_64_clients_get_their_own_answers_and_health_does_not_queue(server, gate, events):
    def ask(number: int) -> bytes:
        with tritongrpc.InferenceServerClient(server.grpc_url) as client:
            order = {"make": "text", "text": f"answer {number}", "wait_for": str(gate)}
            return client.infer("scripted", triton_inputs(order)).as_numpy("out")[0]

    with ThreadPoolExecutor(64) as pool, tritongrpc.InferenceServerClient(server.grpc_url) as health:
        answers = [pool.submit(ask, number) for number in range(64)]
        for _ in answers:
            events.wait_for("waiting")
        assert health.is_server_live(client_timeout=60)
        while not all(answer.done() for answer in answers):
            # One opening lets through all that are waiting by then, which may not be all; it fails if none is waiting.
            with contextlib.suppress(OSError):
                os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
            wait(answers, timeout=0.1)
        assert [answer.result() for answer in answers] == [f"answer {number}".encode() for number in range(64)]
