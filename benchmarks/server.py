"""Measures the overhead of ovms_local with an echo node and a generator of constants, next to gRPC alone."""

import argparse
import asyncio
import contextlib
import queue
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import psutil
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from benchmarks.child import processor_seconds
from ovms_local.testing import free_port, serve

_CONFIG = """{"model_config_list": [], "mediapipe_config_list": [
    {"name": "echo", "base_path": "./", "graph_path": "echo.pbtxt"},
    {"name": "count", "base_path": "./", "graph_path": "count.pbtxt"}]}"""
_NODE = """
input_stream: "OVMS_PY_TENSOR:in"
output_stream: "OVMS_PY_TENSOR:out"
node {
  name: "NAME"
  calculator: "PythonExecutorCalculator"
  input_side_packet: "PYTHON_NODE_RESOURCES:py"
  input_stream: "IN:in"
  output_stream: "OUT:out"
  CYCLE
  node_options: { [type.googleapis.com/mediapipe.PythonExecutorCalculatorOptions]: { handler_path: "NAME.py" } }
}
"""
_CYCLE = """
  input_stream: "LOOPBACK:loop"
  output_stream: "LOOPBACK:loop"
  input_stream_info: { tag_index: "LOOPBACK:0", back_edge: true }
  input_stream_handler {
    input_stream_handler: "SyncSetInputStreamHandler"
    options { [mediapipe.SyncSetInputStreamHandlerOptions.ext] { sync_set { tag_index: "LOOPBACK:0" } } }
  }
"""
_ECHO = """
from pyovms import Tensor

class OvmsPythonModel:
    def execute(self, inputs):
        return [Tensor("out", inputs[0].data, inputs[0].shape, inputs[0].datatype)]
"""
_COUNT = """
from pyovms import Tensor

class OvmsPythonModel:
    def execute(self, inputs):
        for _ in range(int(bytes(inputs[0])[4:])):
            yield [Tensor("out", b"\\x05\\0\\0\\0hello", [1], "BYTES")]
"""
_YIELDS = 10_000


class _Bare(service_pb2_grpc.GRPCInferenceServiceServicer):
    """gRPC's own asyncio server with the same messages but no processing."""

    async def ModelInfer(self, request, context):  # noqa: ARG002, N802
        return self._response(request)

    async def ModelStreamInfer(self, requests, context):  # noqa: N802
        async for request in requests:
            for _ in range(_YIELDS):
                await context.write(pb.ModelStreamInferResponse(infer_response=self._response(request)))

    def _response(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        response = pb.ModelInferResponse(model_name=request.model_name, raw_output_contents=[b"\x05\0\0\0hello"])
        response.parameters["OVMS_MP_TIMESTAMP"].int64_param = 1
        response.outputs.add(name="out", datatype="BYTES", shape=[1])
        return response


async def _serve_bare(port: int) -> None:
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Bare(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


@contextlib.contextmanager
def _bare_server() -> Iterator[tuple[str, psutil.Process]]:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.server", "--bare", str(port)])
    try:
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        grpc.channel_ready_future(channel).result(30)
        channel.close()
        yield f"127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _our_server() -> Iterator[tuple[str, psutil.Process]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text(_CONFIG)
        for node, cycle, code in (("echo", "", _ECHO), ("count", _CYCLE, _COUNT)):
            (folder / f"{node}.pbtxt").write_text(_NODE.replace("NAME", node).replace("CYCLE", cycle))
            (folder / f"{node}.py").write_text(code)
        with serve(folder) as server:
            yield server.grpc_url, psutil.Process(server.process.pid)


def _inputs(text: str) -> list[triton.InferInput]:
    tensor = triton.InferInput("in", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode()], object))
    return [tensor]


def _measure_unary(url: str, calls: int) -> list[float]:
    """Return the seconds of each call."""
    with triton.InferenceServerClient(url) as client:
        inputs, seconds = _inputs("hello"), []
        for _ in range(calls):
            started = time.perf_counter()
            client.infer("echo", inputs)
            seconds.append(time.perf_counter() - started)
    return seconds


def _measure_stream(url: str, process: psutil.Process) -> tuple[float, float]:
    """Return the responses per second that a client receives, and the server CPU time per response in us."""
    with triton.InferenceServerClient(url) as client:
        results: queue.SimpleQueue = queue.SimpleQueue()
        client.start_stream(lambda result, error: results.put(error or result))
        cpu, started = processor_seconds(process), time.perf_counter()
        client.async_stream_infer("count", _inputs(str(_YIELDS)))
        for _ in range(_YIELDS):
            result = results.get()
            if isinstance(result, Exception):
                raise result
        seconds = time.perf_counter() - started
        cpu = processor_seconds(process) - cpu
        client.stop_stream()
    return _YIELDS / seconds, cpu / _YIELDS * 1e6


def _print_row(name: str, url: str, process: psutil.Process, calls: int, repeats: int) -> None:
    _measure_unary(url, 200)
    unary = sorted(second * 1e3 for _ in range(repeats) for second in _measure_unary(url, calls))
    streams = [_measure_stream(url, process) for _ in range(repeats)]
    rates = [rate for rate, _ in streams]
    print(
        f"{name:12} unary median {statistics.median(unary):.2f} ms, p99 {unary[int(len(unary) * 0.99)]:.2f} ms; "
        f"stream median {statistics.median(rates):,.0f} responses/s ({min(rates):,.0f} to {max(rates):,.0f}), "
        f"{statistics.median(cost for _, cost in streams):.0f} us of CPU time each"
    )


def _print_memory(url: str, process: psutil.Process, calls: int) -> None:
    _measure_unary(url, calls // 10)
    before = process.memory_info().rss
    _measure_unary(url, calls)
    after = process.memory_info().rss
    growth = f"{before / 1e6:.1f} MB before, {after / 1e6:.1f} MB after ({after / before - 1:+.1%})"
    print(f"memory over {calls:,} unary calls: {growth}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1000, help="unary calls in each of the repeats (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="(%(default)s)")
    parser.add_argument(
        "--memory-calls", type=int, default=100_000, help="calls over which to watch the memory (%(default)s)"
    )
    parser.add_argument("--bare", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        asyncio.run(_serve_bare(arguments.bare))
        return
    with _our_server() as (url, process), _bare_server() as (bare_url, bare_process):
        _print_row("bare gRPC", bare_url, bare_process, arguments.calls, arguments.repeats)
        _print_row("ovms_local", url, process, arguments.calls, arguments.repeats)
        _print_memory(url, process, arguments.memory_calls)


if __name__ == "__main__":
    main()
