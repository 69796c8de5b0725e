"""Graphs are added, removed and changed while the server runs, and requests get the right answers throughout."""

import contextlib
import json
import os
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor, wait

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from ovms_local.testing import serve
from tests.support import log_lines
from tests.support.kserve_requests import Stream, request
from tests.support.servables import NODE, Events

pytestmark = pytest.mark.slow

# Its answer is in a file that is read when the graph is loaded, not when the module is imported.
HANDLER = """
import os
from pathlib import Path
from pyovms import Tensor

def note(event):
    with open(os.environ["EVENTS"], "a") as events:
        events.write(event + "\\n")

note("imported " + __name__)

class OvmsPythonModel:
    def initialize(self, kwargs):
        self.folder = Path(kwargs["base_path"])
        self.answer = (self.folder / "answer").read_text()
        note("initialize " + self.answer)
        if self.answer == "wait":
            Path(os.environ["GATE"]).read_bytes()
        if self.answer == "fail":
            raise RuntimeError("no good answer")

    def execute(self, inputs):
        if bytes(inputs[0])[4:] == b"wait":
            note("waiting")
            Path(os.environ["GATE"]).read_bytes()
        data = self.answer.encode()
        return [Tensor("out", len(data).to_bytes(4, "little") + data, [1], "BYTES")]

    def finalize(self):
        note("finalize " + self.answer)
"""


class Site:
    """A folder with a config.json and graphs, each of which has its own handler."""

    def __init__(self, folder):
        self.folder = folder
        self.config = folder / "config.json"
        self.events = Events(folder / "events")
        self.gate = folder / "gate"
        os.mkfifo(self.gate)
        self.environment = {"EVENTS": str(self.events.path), "GATE": str(self.gate)}

    def write(self, name, answer):
        """Write or change the files of a graph."""
        graph = self.folder / name
        graph.mkdir(exist_ok=True)
        (graph / f"{name}.py").write_text(HANDLER)
        (graph / "answer").write_text(answer)
        (graph / "graph.pbtxt").write_text(NODE.format(handler=f"{name}.py") + f"# {answer}\n")

    def list(self, *names):
        """Write config.json with these graphs, in one operation."""
        graphs = [{"name": name} for name in names]
        new = self.folder / "config.json.new"
        new.write_text(json.dumps({"model_config_list": [], "mediapipe_config_list": graphs}))
        new.replace(self.config)


class Server:
    """A running server, called over both transports."""

    def __init__(self, running, stub):
        self.running = running
        self.stub = stub

    def rest(self, path, method="GET", body=None):
        message = urllib.request.Request(self.running.rest_url + path, body, method=method)
        try:
            with urllib.request.urlopen(message, timeout=60) as response:
                return response.status, json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def reload(self):
        return self.rest("/v1/config/reload", "POST", b"")

    def states(self):
        return states(self.rest("/v1/config")[1])

    def infer(self, name, text=""):
        """Return the answer, or the code and text of the error."""
        try:
            return self.stub.ModelInfer(request(name, text)).raw_output_contents[0][4:].decode()
        except grpc.RpcError as error:
            return error.code().name, error.details()

    def ready(self, name):
        try:
            return self.stub.ModelReady(pb.ModelReadyRequest(name=name)).ready
        except grpc.RpcError as error:
            return error.code().name

    def metadata(self, name):
        try:
            return self.stub.ModelMetadata(pb.ModelMetadataRequest(name=name)).platform
        except grpc.RpcError as error:
            return error.code().name, error.details()

    def rest_statuses(self, name):
        """Return the results of ready, metadata and infer."""
        body = json.dumps({"inputs": [{"name": "in", "datatype": "BYTES", "shape": [1], "data": [""]}]}).encode()
        model = f"/v2/models/{name}"
        return self.rest(f"{model}/ready")[0], self.rest(model)[0], self.rest(f"{model}/infer", "POST", body)[0]


def states(config):
    return {
        name: (version["state"], version["status"]["error_code"])
        for name, about in config.items()
        for version in about["model_version_status"]
    }


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


@pytest.fixture
def start(site):
    """Start a server, which by default does not check its files by itself."""
    with contextlib.ExitStack() as stack:

        def start(*arguments, poll=0):
            arguments = ["--file_system_poll_wait_seconds", str(poll), *arguments]
            running = stack.enter_context(serve(site.config, env=site.environment, args=arguments))
            channel = stack.enter_context(grpc.insecure_channel(running.grpc_url))
            return Server(running, service_pb2_grpc.GRPCInferenceServiceStub(channel))

        yield start


OK = ("AVAILABLE", "OK")


def test_a_reload_loads_what_is_new_unloads_what_is_gone_and_leaves_the_rest_alone(site, start):
    for name in ("stays", "goes", "changes"):
        site.write(name, f"{name} first")
    site.list("stays", "goes", "changes")
    server = start()
    assert server.infer("changes") == "changes first"
    site.write("comes", "comes first")
    site.write("changes", "changes second")
    site.list("stays", "changes", "comes")
    assert server.infer("goes") == "goes first", "nothing happens by itself with a poll of 0"
    status, config = server.reload()
    assert status == 200
    assert states(config) == {"changes": OK, "comes": OK, "goes": ("END", "OK"), "stays": OK}
    assert config == server.rest("/v1/config")[1]
    assert [server.infer(name) for name in ("stays", "changes", "comes")] == [
        "stays first", "changes second", "comes first",
    ]  # fmt: skip
    events = [event for event in site.events.wait_for("initialize comes first") if not event.startswith("imported")]
    assert events == [
        "initialize stays first", "initialize goes first", "initialize changes first",
        "finalize goes first", "finalize changes first", "initialize changes second", "initialize comes first",
    ]  # fmt: skip
    models = [model["id"] for model in server.rest("/v3/models")[1]["data"]]
    assert models == ["changes", "comes", "stays"]


def test_a_graph_that_was_taken_out_stays_known_and_may_come_back(site, start):
    site.write("graph", "first")
    site.write("other", "other")
    site.list("graph", "other")
    server = start()
    site.list("other")
    server.reload()
    assert server.ready("graph") is False
    assert server.infer("graph") == ("NOT_FOUND", "Mediapipe is retired")
    assert server.metadata("graph") == ("NOT_FOUND", "Mediapipe is retired")
    assert server.rest_statuses("graph") == (404, 404, 404)
    assert server.rest("/v2/models/graph") == (404, {"error": "Mediapipe is retired"})
    assert server.rest("/v3/models/graph")[0] == 500
    stream = Stream(server.stub)
    stream.send(request("graph", ""))
    with pytest.raises(grpc.RpcError, match="Mediapipe is retired"):
        stream.read()
    site.list("graph", "other")
    assert states(server.reload()[1])["graph"] == OK
    assert server.infer("graph") == "first"


def test_a_poll_does_the_same(site, start):
    site.write("graph", "first")
    site.list("graph")
    server = start(poll=1)
    site.write("graph", "second")
    server.running.wait_for_log(log_lines.graph_is("being reloaded", "graph"))
    site.events.wait_for("initialize second")
    site.write("new", "new")
    site.list("new")
    server.running.wait_for_log(log_lines.graph_is("retired", "graph"))
    server.running.wait_for_log(log_lines.graph_is("ready", "new"))
    assert server.infer("new") == "new"
    assert server.states() == {"graph": ("END", "OK"), "new": OK}


def test_the_module_of_a_handler_is_imported_once(site, start):
    site.write("graph", "first")
    site.list("graph")
    server = start()
    site.write("graph", "second")
    server.reload()
    events = site.events.wait_for("initialize second")
    assert events == ["imported graph", "initialize first", "finalize first", "initialize second"]


def test_an_entry_that_changes_is_a_change_too(site, start):
    site.write("graph", "first")
    site.write("elsewhere", "second")
    site.list("graph")
    server = start()
    entry = {"name": "graph", "base_path": "elsewhere"}
    site.config.write_text(json.dumps({"model_config_list": [], "mediapipe_config_list": [entry]}))
    server.reload()
    assert server.infer("graph") == "second"


def test_requests_under_way_end_on_the_graph_they_began_with_which_is_then_finalized(site, start):
    site.write("graph", "first")
    site.write("gone", "gone")
    site.list("graph", "gone")
    server = start()
    with ThreadPoolExecutor() as pool:
        answers = [pool.submit(server.infer, name, "wait") for name in ("graph", "gone")]
        site.events.wait_for("waiting")
        site.events.wait_for("waiting")
        site.write("graph", "second")
        site.list("graph")
        assert server.reload()[0] == 200
        assert server.infer("graph") == "second"
        assert "initialize second" in site.events.wait_for("initialize second")
        while not all(answer.done() for answer in answers):
            # One opening lets through all that are waiting by then, one or both; it fails if none is waiting.
            with contextlib.suppress(OSError):
                os.close(os.open(site.gate, os.O_WRONLY | os.O_NONBLOCK))
            wait(answers, timeout=0.1)
        assert [answer.result(60) for answer in answers] == ["first", "gone"]
    finalized = {site.events.wait_for("finalize")[-1] for _ in answers}
    assert finalized == {"finalize first", "finalize gone"}


def test_so_do_streams(site, start):
    site.write("graph", "first")
    site.list("graph")
    server = start()
    stream = Stream(server.stub)
    stream.send(request("graph", "a"))
    assert stream.read_text() == "first"
    site.write("graph", "second")
    server.reload()
    stream.send(request("graph", "b"))
    assert stream.read_text() == "first"
    assert server.infer("graph") == "second"
    events = site.events.wait_for("initialize second")
    assert "finalize first" not in events
    stream.half_close()
    assert stream.read_all() == []
    site.events.wait_for("finalize first")


def test_while_a_graph_is_loaded_for_the_first_time_the_server_does_not_know_it(site, start):
    site.write("graph", "wait")
    site.write("other", "other")
    site.list("other")
    server = start()
    site.list("other", "graph")
    with ThreadPoolExecutor() as pool:
        reloaded = pool.submit(server.reload)
        site.events.wait_for("initialize wait")
        assert server.ready("graph") == "NOT_FOUND"
        assert server.metadata("graph") == ("NOT_FOUND", "Model with requested name is not found")
        assert server.infer("graph") == (
            "NOT_FOUND", "Mediapipe graph definition with requested name is not found",
        )  # fmt: skip
        assert server.rest_statuses("graph") == (404, 404, 404)
        assert server.states() == {"other": OK}
        assert server.infer("other") == "other"
        site.gate.write_text("")
        reloaded.result(60)
    assert server.ready("graph") is True


def test_while_a_graph_is_reloaded_it_is_not_available_and_others_are(site, start):
    site.write("graph", "first")
    site.write("other", "other")
    site.list("graph", "other")
    server = start()
    site.write("graph", "wait")
    with ThreadPoolExecutor() as pool:
        reloaded = pool.submit(server.reload)
        site.events.wait_for("initialize wait")
        assert server.ready("graph") is False
        assert server.states()["graph"] == ("LOADING", "OK")
        assert server.infer("graph") == ("UNAVAILABLE", "Mediapipe is not loaded yet")
        assert server.rest_statuses("graph") == (404, 500, 500)
        stream = Stream(server.stub)
        stream.send(request("graph", ""))
        with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
            stream.read()
        assert server.infer("other") == "other"
        site.gate.write_text("")
        reloaded.result(60)
    assert server.infer("graph") == "wait"


def test_a_short_reload_is_waited_for(site, start):
    site.write("graph", "0")
    site.list("graph")
    server = start()
    over = threading.Event()

    def ask():
        answers = set()
        while not over.is_set():
            answers.add(server.infer("graph"))
        return answers

    with ThreadPoolExecutor() as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        for number in range(1, 6):
            site.write("graph", str(number))
            server.reload()
        over.set()
        answers = set().union(*(future.result(60) for future in asking))
    assert answers <= set("012345")


@pytest.mark.parametrize("harm", ["fail", "graph", "no graph"])
def test_a_graph_that_fails_to_reload_is_not_available_until_it_is_repaired(site, start, harm):
    site.write("graph", "first")
    site.write("other", "other")
    site.list("graph", "other")
    server = start()
    pbtxt = site.folder / "graph" / "graph.pbtxt"
    if harm == "fail":
        site.write("graph", "fail")
    elif harm == "graph":
        pbtxt.write_text("node {")
    else:
        pbtxt.unlink()
    assert states(server.reload()[1]) == {"graph": ("LOADING", "FAILED_PRECONDITION"), "other": OK}
    assert server.ready("graph") is False
    assert server.infer("graph") == ("UNAVAILABLE", "Mediapipe is not loaded yet")
    assert server.metadata("graph") == ("UNAVAILABLE", "Mediapipe is not loaded yet")
    assert server.rest_statuses("graph") == (404, 500, 500)
    assert server.infer("other") == "other"
    assert server.running.log.count("ERROR") == 1
    server.reload()
    assert server.running.log.count("ERROR") == 1, "what has not changed is not tried again"
    site.write("graph", "second")
    server.reload()
    assert server.infer("graph") == "second"


@pytest.mark.parametrize(
    ("content", "status", "text"),
    [
        ('{"model_config_list": [', 412, "not valid JSON"),
        ("", 412, "not valid JSON"),
        ('{"mediapipe_config_list": []}', 412, "model_config_list is missing"),
        (None, 500, "can't read"),
    ],
)
def test_a_config_that_cannot_be_read_changes_nothing_and_is_told_once(site, start, content, status, text):
    site.write("graph", "first")
    site.list("graph")
    server = start(poll=1)
    good = site.config.read_text()
    if content is None:
        site.config.unlink()
    else:
        site.config.write_text(content)
    server.running.wait_for_log(log_lines.GRAPHS_STAY)
    for _ in range(2):
        got, answer = server.reload()
        assert (got, set(answer)) == (status, {"error"})
    assert server.infer("graph") == "first"
    assert server.states() == {"graph": OK}
    [error] = [line for line in server.running.log.splitlines() if "ERROR" in line]
    assert text in error
    site.config.write_text(good)
    assert server.reload()[0] == 200
    assert server.infer("graph") == "first"
    assert "finalize first" not in site.events.wait_for("initialize first")


def test_a_config_that_is_being_written_is_read_when_it_is_whole(site, start):
    site.write("graph", "first")
    site.write("new", "new")
    site.list("graph")
    server = start()
    site.list("graph", "new")
    whole = site.config.read_text()
    with ThreadPoolExecutor() as pool, site.config.open("w") as config:
        config.write(whole[:20])
        config.flush()
        reloaded = pool.submit(server.reload)
        config.write(whole[20:])
        config.flush()
        # It is read either in time or at the next reload.
        assert reloaded.result(60)[0] in (200, 412)
    assert states(server.reload()[1]) == {"graph": OK, "new": OK}


def test_reloads_at_once_are_done_one_after_the_other(site, start):
    site.write("graph", "first")
    site.list("graph")
    server = start()
    site.write("graph", "second")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: server.reload(), range(8)))
    assert {status for status, _ in answers} == {200}
    assert all(states(config) == {"graph": OK} for _, config in answers)
    site.write("graph", "third")
    server.reload()
    events = site.events.wait_for("initialize third")
    assert [event for event in events if event.startswith("initialize")] == [
        "initialize first", "initialize second", "initialize third",
    ]  # fmt: skip


def test_a_signal_during_a_reload(site, start):
    site.write("graph", "first")
    site.write("later", "later")
    site.list("graph")
    server = start()
    site.write("graph", "wait")
    site.list("graph", "later")
    with ThreadPoolExecutor() as pool:
        pool.submit(server.reload)
        site.events.wait_for("initialize wait")
        stopped = pool.submit(server.running.stop)
        server.running.wait_for_log(log_lines.STOPPING)
        site.gate.write_text("")
        assert stopped.result(60) == 0
    assert "finalize wait" in site.events.wait_for("finalize wait")
    assert "later" not in server.running.log
    assert "Traceback" not in server.running.log


def test_two_graphs_of_one_name_are_a_warning(site, start):
    site.write("graph", "first")
    site.write("other", "second")
    entries = [{"name": "graph"}, {"name": "graph", "base_path": "other"}]
    site.config.write_text(json.dumps({"model_config_list": [], "mediapipe_config_list": entries}))
    server = start(poll=1)
    assert server.infer("graph") == "first"
    site.write("graph", "third")
    server.running.wait_for_log(log_lines.graph_is("being reloaded", "graph"))
    [warning] = [line for line in server.running.log.splitlines() if "WARNING" in line]
    assert warning.endswith(f"{site.config} has several graphs named graph: only the first is loaded")
