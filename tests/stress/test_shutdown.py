"""SIGTERM while requests are running, for the servables."""

from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from tritonclient.utils import InferenceServerException

from tests.support import clients, watch

pytestmark = pytest.mark.slow

CLIENTS = 3
QUESTION = "Tell me a story."


@pytest.mark.parametrize(("engine", "servable"), [("optimum", "unary"), ("optimum", "stream"), ("genai", "stream")])
def test_answers_are_finished_before_the_end(serving, engine, servable):
    ask = clients.stream if servable == "stream" else clients.unary
    settings = {"MAX_NEW_TOKENS": 60, "IGNORE_EOS": 1, "LOG_LEVEL": "DEBUG"}
    with serving(servable, ENGINE=engine, **settings) as server, ThreadPoolExecutor(CLIENTS) as pool:
        answers = [pool.submit(ask, server.grpc_url, QUESTION) for _ in range(CLIENTS)]
        watch.until(lambda: server.log.count(repr(QUESTION)) == CLIENTS)
        assert server.stop() == 0
        assert all(answer.result().error is None and answer.result().token_count > 0 for answer in answers)
        assert len(watch.generated(server)) == CLIENTS
        assert "Traceback" not in server.log


def test_what_takes_too_long_is_ended(serving, engine):
    settings = {"MAX_NEW_TOKENS": 8000, "IGNORE_EOS": 1, "LOG_LEVEL": "DEBUG"}
    arguments = ("--shutdown_timeout", "1")
    with serving("stream", arguments, ENGINE=engine, **settings) as server, ThreadPoolExecutor(CLIENTS) as pool:
        answers = [pool.submit(clients.stream, server.grpc_url, QUESTION) for _ in range(CLIENTS)]
        # All are connected: gRPC's client can wait for ever if the server stops while it connects.
        watch.until(lambda: server.log.count(repr(QUESTION)) == CLIENTS)
        assert server.stop() == 0
        for answer in answers:
            with pytest.raises(InferenceServerException):
                answer.result()
        assert "Traceback" not in server.log


def test_a_killed_server_takes_the_generating_process_along(serving):
    settings = {"MAX_NEW_TOKENS": 8000, "IGNORE_EOS": 1}
    with serving("stream", ENGINE="genai", **settings) as server, ThreadPoolExecutor(1) as pool:
        _, generating = watch.processes(server)
        answer = pool.submit(clients.stream, server.grpc_url, QUESTION)
        watch.until(lambda: generating.cpu_percent(0.1) > 50)
        server.process.kill()
        with pytest.raises(InferenceServerException):
            answer.result()
        assert psutil.wait_procs([generating], timeout=30)[1] == []
