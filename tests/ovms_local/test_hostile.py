"""The short version of hostile.py, and properties of the response to any request."""

import contextlib
import json
import math
import urllib.error
import urllib.request

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from ovms_local.errors import InvalidRequest, ServingError
from ovms_local.grpc_codec import decode_request as decode_grpc
from ovms_local.packing import pack_bytes, unpack_bytes
from ovms_local.rest_codec import decode_request as decode_rest
from tests.support.hostile import attack

SERVED = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda x: st.lists(x) | st.dictionaries(st.text(), x),
)


@pytest.mark.slow
def test_mutated_requests_do_no_harm(server):
    report = attack(server, 1500)
    assert report.problems == []
    assert report.sent == 1500
    assert server.process.poll() is None


@given(st.lists(st.binary()))
def test_packing_is_undone_by_unpacking(elements):
    assert unpack_bytes(pack_bytes(elements)) == elements


@given(st.binary())
def test_packed_data_of_strangers_is_unpacked_or_refused(data):
    with contextlib.suppress(ValueError):
        assert pack_bytes(unpack_bytes(data)) == data


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()), st.none() | st.text())
def test_rest_bodies_are_decoded_or_refused(body, header_length):
    with contextlib.suppress(ServingError):
        decode_rest("m", body, header_length)


TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "name": st.text() | JSON,
        "datatype": st.sampled_from(["BOOL", "INT8", "UINT64", "FP32", "FP64", "FP16", "BYTES", "X"]) | JSON,
        "shape": st.lists(st.integers()) | JSON,
        "data": st.lists(st.integers() | st.floats() | st.text() | st.booleans()) | JSON,
        "parameters": st.dictionaries(st.sampled_from(["binary_data_size", "other"]), JSON),
    },
)


@given(st.lists(TENSOR, min_size=1, max_size=3), st.binary())
def test_rest_tensors_are_decoded_or_refused(tensors, binary):
    text = json.dumps({"inputs": tensors}).encode()
    with contextlib.suppress(ServingError):
        decode_rest("m", text + binary, str(len(text)))


@pytest.mark.timeout(30)  # with time that grows with the square of the size, these would take hours
@pytest.mark.parametrize("end", [b"", b"\\", b'"'])
def test_long_strings_and_many_brackets_are_no_work(end):
    with pytest.raises(ServingError):
        decode_rest("m", b'["' + b'\\"' * 1_000_000 + end + b"[" * 101, None)
    with pytest.raises(ServingError):
        decode_rest("m", b"[" * 101 + b'"' + b'\\"' * 1_000_000 + end, None)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("dimension", [1, 2, 2**31 - 1])
def test_many_dimensions_are_no_work(dimension):
    shape = [dimension] * 300_000
    body = {"inputs": [{"name": "in", "datatype": "INT32", "shape": shape, "data": [1, 2]}]}
    with pytest.raises(InvalidRequest):
        decode_rest("m", json.dumps(body).encode(), None)
    for typed in ({"raw_input_contents": [b""]}, {}):
        message = pb.ModelInferRequest(model_name="m", **typed)
        message.inputs.add(name="in", datatype="INT32", shape=shape)
        with pytest.raises(InvalidRequest):
            list(decode_grpc(message).tensors(["in"]))


@given(st.binary())
def test_grpc_messages_are_decoded_or_refused(data):
    try:
        message = pb.ModelInferRequest.FromString(data)
    except Exception:
        return
    with contextlib.suppress(InvalidRequest):
        decode_grpc(message)


@pytest.mark.slow
@SERVED
@given(
    st.sampled_from(["INT8", "INT16", "INT32", "UINT8", "UINT16", "FP32"]),
    st.lists(st.integers(0, 4), max_size=4),
    st.data(),
)
def test_what_fits_comes_back_as_it_was(stub, datatype, shape, data):
    size = int(np.prod(shape)) * {"8": 1, "6": 2, "2": 4}[datatype[-1]]
    content = data.draw(st.binary(min_size=size, max_size=size))
    message = pb.ModelInferRequest(model_name="echo", raw_input_contents=[content])
    message.inputs.add(name="in", datatype=datatype, shape=shape)
    response = stub.ModelInfer(message)
    assert list(response.raw_output_contents) == [content]
    assert list(response.outputs[0].shape) == shape


def fits(shape, datatype, content):
    size = {"INT64": 8, "FP16": 2, "BOOL": 1}[datatype]
    return all(dimension >= 0 for dimension in shape) and (
        math.prod(shape) * size == len(content) and math.prod(max(n, 1) for n in shape) * size < 2**63
    )


@pytest.mark.slow
@SERVED
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
    st.sampled_from(["INT64", "FP16", "BOOL"]),
    st.binary(max_size=20),
)
def test_what_does_not_fit_is_refused_and_nothing_else(stub, shape, datatype, content):
    message = pb.ModelInferRequest(model_name="echo", raw_input_contents=[content])
    message.inputs.add(name="in", datatype=datatype, shape=shape)
    if fits(shape, datatype, content):
        assert list(stub.ModelInfer(message).raw_output_contents) == [content]
        return
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(message)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.slow
@SERVED
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back_through_rest(server, text):
    body = {"inputs": [{"name": "in", "datatype": "BYTES", "shape": [1], "data": [text]}]}
    with urllib.request.urlopen(server.rest_url + "/v2/models/echo/infer", json.dumps(body).encode()) as response:
        assert json.load(response)["outputs"][0]["data"] == [text.partition("\0")[0]]
