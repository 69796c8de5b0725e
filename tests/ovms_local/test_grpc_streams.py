"""Streams over gRPC: the effect of their requests, the responses and their times, and how streams end."""

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import tritonclient.grpc.aio as tritonaio
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from tests.support.clients import TritonStream, open_stream
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

pytestmark = pytest.mark.slow


def test_each_output_of_a_stream_is_a_response_of_its_own(stub):
    stream = Stream(stub)
    stream.send(request("stream", {"count": 2, "both": True}, timestamp=100))
    stream.half_close()
    responses = [stream.read().infer_response for _ in range(4)]
    assert {(r.model_name, r.model_version) for r in responses} == {("stream", "1")}
    assert [
        (r.outputs[0].name, r.raw_output_contents[0][4:], r.parameters["OVMS_MP_TIMESTAMP"].int64_param)
        for r in responses
    ] == [("out", b"out 0", 100), ("other", b"other 0", 100), ("out", b"out 1", 101), ("other", b"other 1", 101)]
    assert stream.read_all() == []


def test_a_set_leaves_when_the_next_one_has_been_computed(stub, gate, events):
    stream = Stream(stub)
    stream.send(request("stream", {"count": 4, "wait_at": 2, "wait_for": str(gate)}))
    assert stream.read_text() == "out 0"
    events.wait_for("generator waits")  # while it holds set 1
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(stream.read_text)
        with pytest.raises(TimeoutError):
            reading.result(0.5)
        gate.write_text("")
        assert reading.result() == "out 1"
    assert [stream.read_text(), stream.read_text()] == ["out 2", "out 3"]
    stream.half_close()
    assert stream.read_all() == []


def test_the_last_set_leaves_when_the_generator_has_returned(stub, gate, events):
    stream = Stream(stub)
    stream.send(request("stream", {"count": 2, "wait_at": 2, "wait_for": str(gate)}))
    assert stream.read_text() == "out 0"
    events.wait_for("generator waits")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(stream.read_text)
        with pytest.raises(TimeoutError):
            reading.result(0.5)
        gate.write_text("")
        assert reading.result() == "out 1"
    stream.half_close()
    assert stream.read_all() == []


def test_an_empty_set_behind_each_set_lets_it_leave_at_once(stub, gate, events):
    stream = Stream(stub)
    stream.send(request("stream", {"count": 2, "then_nothing": True, "wait_at": 1, "wait_for": str(gate)}))
    assert stream.read_text() == "out 0"
    events.wait_for("generator waits")
    gate.write_text("")
    assert stream.read_text() == "out 1"
    stream.half_close()
    assert stream.read_all() == []


def test_a_buffer_that_is_filled_again_is_sent_as_it_is_then(stub):
    """The value of each set is read when the next one has been computed."""
    stream = Stream(stub)
    stream.send(request("stream", {"count": 3, "refill": True}))
    stream.half_close()
    assert [int.from_bytes(value, "little") for value in stream.read_raw()] == [1, 2, 2]
    unary = stub.ModelInfer(request("stream", {"count": 3, "refill": True, "both": True}))
    assert [int.from_bytes(value, "little") for value in unary.raw_output_contents] == [2, 2]


def test_a_set_may_be_anything_that_gives_tensors(stub):
    for kind in ("tuple", "generator"):
        stream = Stream(stub)
        stream.send(request("stream", {"count": 2, "make": kind}))
        stream.half_close()
        assert stream.read_all() == ["", ""]


def test_triton_streaming_client(client):
    stream = TritonStream(client)
    stream.send("stream", triton_inputs({"count": 3}))
    stream.finish()
    assert [stream.receive(0).as_numpy("out")[0] for _ in range(3)] == [b"out 0", b"out 1", b"out 2"]
    with pytest.raises(TimeoutError):
        stream.receive(0)


def test_triton_asyncio_client(server):
    async def talk():
        async with tritonaio.InferenceServerClient(server.grpc_url) as client:
            unary = await client.infer("echo", triton_inputs("hello"))

            async def requests():
                yield {"model_name": "stream", "inputs": triton_inputs({"count": 2})}

            texts = [result.as_numpy("out")[0] async for result, _ in client.stream_infer(requests())]
            return unary.as_numpy("out")[0], texts

    assert asyncio.run(talk()) == (b"hello", [b"out 0", b"out 1"])


def test_a_request_without_a_timestamp_has_that_of_the_clock(stub):
    stream = Stream(stub)
    stream.send(request("echo", "x", timestamp=10))
    assert timestamp_of(stream.read().infer_response) == 10
    for number in range(3):
        before = time.time_ns() // 1000
        stream.send(request("echo", str(number)))
        assert before <= timestamp_of(stream.read().infer_response) <= time.time_ns() // 1000
    stream.half_close()
    assert stream.read_all() == []


@pytest.mark.parametrize(("first", "second"), [(10, 10), (10, 9), (2**60, None)])
def test_a_timestamp_that_does_not_grow_ends_the_stream(stub, first, second):
    """Whether the client or the server chose it; and at once, although the client's side stays open."""
    stream = Stream(stub)
    stream.send(request("echo", "x", timestamp=first))
    assert stream.read_text() == "x"
    stream.send(request("echo", "x", timestamp=second))
    code, details = status_of(stream.read)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith("Mediapipe execution failed. MP status - ")
    assert "timestamp mismatch" in details


def test_wrong_requests_on_a_stream_are_answered_and_it_goes_on(stub):
    stream = Stream(stub)
    stream.send(request("echo", "x", name="other"))
    first = "; partial deserialization of first request"
    assert stream.read_error() == "Unexpected input - other is unexpected" + first
    stream.send(request("echo", "x", timestamp=10))
    assert stream.read_text() == "x"
    for field, value in [("int64_param", 2**63 - 1), ("string_param", "5")]:
        stream.send(with_parameter("OVMS_MP_TIMESTAMP", field, value))
        assert stream.read_error().startswith("Malformed packet timestamp - ")
    later = "; partial deserialization of subsequent requests"
    stream.send(request("echo", "x", name="other"))
    assert stream.read_error() == "Unexpected input - other is unexpected" + later
    stream.send(request("scripted", "x"))
    assert stream.read_error().startswith("Subsequent request with incorrect servable name")
    stream.send(request("echo", "still here"))
    assert stream.read_text() == "still here"
    stream.half_close()
    assert stream.read_all() == []


def test_later_requests_of_a_stream_may_name_the_version_or_none(stub):
    stream = Stream(stub)
    for version in ("1", "", "0", "1"):
        stream.send(request("echo", version, version=version))
        assert stream.read_text() == version
    stream.send(request("echo", "x", version="2"))
    assert stream.read_error().startswith("Subsequent request with incorrect servable version")
    stream.send(request("echo", "still here"))
    assert stream.read_text() == "still here"
    stream.half_close()
    assert stream.read_all() == []


def test_a_request_without_inputs_is_silently_accepted_in_a_stream(stub):
    stream = Stream(stub)
    stream.send(pb.ModelInferRequest(model_name="echo"))
    stream.send(request("echo", "x"))
    stream.send(pb.ModelInferRequest(model_name="echo"))
    stream.half_close()
    assert stream.read_all() == ["x"]


def test_the_effect_of_a_good_input_comes_before_the_error_of_a_bad_one(stub):
    message = request("echo", "x")
    message.inputs.add(name="nowhere")
    stream = Stream(stub)
    stream.send(message)
    assert stream.read_text() == "x"
    assert stream.read_error().startswith("Unexpected input - nowhere is unexpected")
    stream.half_close()
    assert stream.read_all() == []


@pytest.mark.parametrize("wrong", [("nowhere", "BYTES", [1]), ("second", "INT32", [3]), ("second", "BYTES", [-1])])
def test_a_good_input_before_a_bad_one_has_its_effect(stub, wrong):
    message = request("pair", "x", name="first", timestamp=1)
    name, datatype, shape = wrong
    message.inputs.add(name=name, datatype=datatype, shape=shape)
    stream = Stream(stub)
    stream.send(message)
    stream.send(request("pair", "x", name="second", timestamp=1))
    assert stream.read_error()
    assert stream.read_text() == "second first"
    stream.half_close()
    assert stream.read_all() == []


@pytest.mark.parametrize(("name", "code"), [("nope", "NOT_FOUND"), ("broken", "UNAVAILABLE")])
def test_a_stream_to_no_graph_fails(stub, name, code):
    stream = Stream(stub)
    stream.send(request(name, "x"))
    assert status_of(stream.read)[0] == grpc.StatusCode[code]


def test_a_stream_without_a_request_fails(stub):
    stream = Stream(stub)
    stream.half_close()
    assert status_of(stream.read) == UNKNOWN_ERROR


def test_what_is_no_message_ends_a_stream(server):
    with grpc.insecure_channel(server.grpc_url) as channel:
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        assert status_of(lambda: list(stream(iter([b"\xff"])))) == UNKNOWN_ERROR
        responses = list(stream(iter([request("echo", "x").SerializeToString(), b"\xff"])))
        assert len(responses) == 1


def test_a_stream_may_be_closed_before_the_answer(stub):
    stream = Stream(stub)
    stream.send(request("stream", {"count": 1000}))
    stream.half_close()
    assert len(stream.read_all()) == 1000


def test_a_request_while_the_generator_runs_is_an_error(stub, events):
    stream = Stream(stub)
    stream.send(request("stream", {"count": 10**9}))
    assert stream.read_text() == "out 0"
    stream.send(request("stream", {"count": 1}))
    stream.half_close()
    code, details = status_of(stream.read_all)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert details.endswith(
        'for node "stream_node" failed: Node is already processing data. Create new stream for another request.'
    )
    assert details.startswith("Mediapipe execution failed. MP status - RESOURCE_EXHAUSTED: ")
    events.wait_for("generator ends")


def test_a_stream_takes_another_request_after_the_generator(stub):
    stream = Stream(stub)
    stream.send(request("stream", {"count": 3}, timestamp=50))
    assert [stream.read_text() for _ in range(3)] == ["out 0", "out 1", "out 2"]
    stream.send(request("stream", {"return": "done"}))
    assert stream.read_text() == "done"
    stream.half_close()
    assert stream.read_all() == []


def test_a_generators_timestamps_must_not_be_used_again(stub):
    stream = Stream(stub)
    stream.send(request("stream", {"count": 3}, timestamp=50))
    assert [stream.read_text() for _ in range(3)] == ["out 0", "out 1", "out 2"]
    stream.send(request("stream", {"return": "late"}, timestamp=51))
    stream.half_close()
    code, details = status_of(stream.read_all)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "timestamp mismatch" in details


def test_partial_inputs_of_a_stream_are_put_together_by_timestamp(stub):
    stream = Stream(stub)
    stream.send(request("pair", "x", name="first", timestamp=1))
    stream.send(request("pair", "x", name="second", timestamp=1))
    assert stream.read_text() == "second first"
    stream.send(request("pair", "x", name="first", timestamp=2))
    stream.send(request("pair", "x", name="second", timestamp=3))
    assert stream.read_text() == "first"  # nothing can arrive any more at `second` with timestamp 2
    stream.half_close()
    assert stream.read_all() == ["second"]


def test_a_graph_of_several_nodes_gives_each_output_at_its_time(stub):
    stream = Stream(stub)
    stream.send(request("chain", {"count": 3}, timestamp=7))
    stream.half_close()
    responses = {}
    with contextlib.suppress(StopIteration):
        while True:
            response = stream.read().infer_response
            stamp = response.parameters["OVMS_MP_TIMESTAMP"].int64_param
            responses[response.outputs[0].name, stamp] = response.raw_output_contents[0][4:].decode()
    assert responses == {
        ("direct", 7): 'beside({"count": 3})',
        ("out", 7): "last(0)",
        ("out", 8): "last(1)",
        ("out", 9): "last(2)",
    }


def test_an_exception_is_the_status_when_the_client_has_half_closed(stub, events):
    stream = Stream(stub)
    stream.send(request("stream", {"count": 3, "fail_at": 2}))
    stream.half_close()
    assert stream.read_text() == "out 0"
    code, details = status_of(stream.read)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith(EXECUTION_FAILED.format("stream_node"))
    assert details.endswith("RuntimeError: failed on purpose")
    events.wait_for("generator ends")


def test_an_exception_is_told_when_the_server_next_reads_from_the_client(stub, events):
    stream = Stream(stub)
    stream.send(request("stream", {"count": 3, "fail_at": 2}))
    assert stream.read_text() == "out 0"
    events.wait_for("generator ends")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(stream.read)
        with pytest.raises(TimeoutError):
            reading.result(0.5)
        stream.half_close()
        assert reading.exception().code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "move",
    [
        request("stream", {}),
        pb.ModelInferRequest(model_name="stream"),
        request("nope", "x"),
        request("stream", {}, name="x"),
    ],
    ids=["good", "without inputs", "other graph", "unexpected input"],
)
def test_any_request_after_an_exception_makes_it_known(server, stub, move):
    stream = Stream(stub)
    cause = f"failed before {move.SerializeToString().hex()}"
    stream.send(request("stream", {"count": 3, "fail_at": 2, "fail_with": cause}))
    assert stream.read_text() == "out 0"
    server.wait_for_log(cause)

    def move_and_read():
        while True:  # a wrong one first gets an answer of its own
            stream.send(move)
            stream.read()

    code, details = status_of(move_and_read)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith(EXECUTION_FAILED.format("stream_node"))


def test_wrong_yields_fail_and_close_the_generator(stub, events):
    wrong = [
        ({"count": 0}, "yielded nothing"),
        ({"count": 1, "make": "twice"}, "given twice"),
        ({"count": 1, "make": "transposed"}, "not contiguous"),
        ({"count": 1, "make": "number"}, "must be Tensors"),
        ({"count": 1, "make": "none"}, "NoneType"),
    ]
    for order, cause in wrong:
        stream = Stream(stub)
        stream.send(request("stream", order))
        stream.half_close()
        assert cause in status_of(stream.read)[1]
        events.wait_for("generator ends")


# Clients that leave


def test_a_cancelled_stream_closes_its_generator_right_after_next(stub, gate, events):
    stream = Stream(stub)
    stream.send(request("stream", {"count": 5, "wait_at": 2, "wait_for": str(gate)}))
    stream.read()
    events.wait_for("generator waits")
    stream.cancel()
    gate.write_text("")
    events.wait_for("generator ends")


def test_a_deadline_closes_the_generator(server, events):
    with grpc.insecure_channel(server.grpc_url) as channel:
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(
            iter([request("stream", {"count": 10**9})]), timeout=0.5
        )
        with pytest.raises(grpc.RpcError) as caught:
            for _ in call:
                pass
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    events.wait_for("generator ends")


def test_a_closed_connection_closes_the_generator(server, events):
    with open_stream(server.grpc_url) as stream:
        stream.send("stream", triton_inputs({"count": 10**9}))
        stream.receive()
    events.wait_for("generator ends")


def test_a_client_that_does_not_read_holds_the_generator_back(stub, events):
    slow, quick = Stream(stub), Stream(stub)
    slow.send(request("stream", {"count": 5000, "size": 1 << 20}))
    slow.read()
    # While another stream gets all its outputs, the first one is only a few outputs ahead of its connection.
    quick.send(request("stream", {"count": 5000}))
    quick.half_close()
    assert len(quick.read_all()) == 5000
    lines = events.wait_for("generator ends")
    slow.cancel()
    lines += events.wait_for("generator ends")
    assert sum(line.startswith("step") for line in lines) < 60
