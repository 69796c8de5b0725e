"""A graph instance between its client and its worker threads."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from ovms_local.graph_stream import GraphStream
from ovms_local.loader import load_graph
from ovms_local.metrics import Metrics, enabled_families
from ovms_local.server_config import GraphEntry
from tests.support.servables import NODE

ECHO = """
class OvmsPythonModel:
    def execute(self, inputs):
        return inputs
"""


def test_errors_are_told_when_a_client_that_sent_many_wrong_requests_reads_at_last(tmp_path):
    (tmp_path / "handler_of_test_graph_stream.py").write_text(ECHO)
    (tmp_path / "graph.pbtxt").write_text(NODE.format(handler="handler_of_test_graph_stream.py"))
    graph = load_graph(GraphEntry("g", tmp_path, tmp_path / "graph.pbtxt"))
    metrics = Metrics(enabled_families(None))
    metrics.add_graph("g")
    errors = [f"error {number}" for number in range(200)]

    async def scenario() -> list[str]:
        with ThreadPoolExecutor(1) as workers:
            stream = GraphStream(graph, workers, metrics.of_graph("gRPC", "ModelInferStream", "g"), lambda _: None)

            async def send() -> None:
                for error in errors:
                    await stream.report(error)
                stream.close_inputs()

            sending = asyncio.create_task(send())
            await asyncio.sleep(0)  # lets it run until it has to wait for the client
            assert not sending.done()
            async with asyncio.timeout(60):
                told = [output async for output in stream]
            await sending
            return told

    assert asyncio.run(scenario()) == errors
