"""The scheduler: which node runs when, with which inputs, and which packets leave the graph."""

import builtins
import itertools
import random

import pytest

from ovms_local.errors import ExecutionFailed
from ovms_local.graph import GraphInstance, Packet
from ovms_local.loader import load_graph
from ovms_local.pyovms import Tensor
from ovms_local.server_config import GraphEntry
from tests.support.text import edited

NAMES = itertools.count()
JOIN = """
from pyovms import Tensor
class OvmsPythonModel:
    def initialize(self, kwargs):
        self.outputs = [name for name in kwargs["output_names"] if name != "loop"]
        self.name = kwargs["node_name"]
    def execute(self, inputs):
        text = self.name + "(" + ",".join(bytes(tensor).decode() for tensor in inputs) + ")"
        return [Tensor(name, text.encode()) for name in self.outputs]
"""
COUNT = """
from pyovms import Tensor
class OvmsPythonModel:
    def execute(self, inputs):
        for number in range(int(bytes(inputs[0]))):
            yield [Tensor("out", str(number).encode())]
"""
BACK_EDGE = 'input_stream: "LOOPBACK:loop" output_stream: "LOOPBACK:loop" ' + (
    'input_stream_info: { tag_index: "LOOPBACK:0" back_edge: true }'
)
IMMEDIATE = 'input_stream_handler { input_stream_handler: "ImmediateInputStreamHandler" }'


def sync_sets(*sets):
    text = " ".join("sync_set { " + " ".join(f'tag_index: "{tag}:0"' for tag in tags) + " }" for tags in sets)
    options = f"options {{ [mediapipe.SyncSetInputStreamHandlerOptions.ext] {{ {text} }} }}"
    return f'input_stream_handler {{ input_stream_handler: "SyncSetInputStreamHandler" {options} }}'


def node(name, inputs, outputs, more=""):
    streams = [f'input_stream: "{text}"' for text in inputs] + [f'output_stream: "{text}"' for text in outputs]
    options = "[type.googleapis.com/mediapipe.PythonExecutorCalculatorOptions]: { handler_path: 'HANDLER' }"
    return (
        f'node {{ name: "{name}" calculator: "PythonExecutorCalculator" {" ".join(streams)} {more} '
        f'input_side_packet: "PYTHON_NODE_RESOURCES:py" node_options: {{ {options} }} }}'
    )


class Run(GraphInstance):
    """An instance that records the packets that leave it: `(stream, timestamp, text)`."""

    def __init__(self, graph):
        super().__init__(graph)
        self.out = []

    def step(self):
        """Run a node, if one is ready; return whether one was."""
        packets = super().step()
        self.out += [(name, timestamp, bytes(tensor).decode()) for name, timestamp, tensor in packets or ()]
        return packets is not None


@pytest.fixture
def run(tmp_path):
    """Run a graph on packets, `(stream, timestamp, text)`; return its outputs, or a list that grows if fed by hand."""

    def start(nodes, outputs=("out",), inputs=("in",), code=JOIN):
        handler = tmp_path / f"handler_of_test_graph_{next(NAMES)}.py"
        handler.write_text(code)
        head = [f'input_stream: "OVMS_PY_TENSOR_{i}:{name}"' for i, name in enumerate(inputs)]
        head += [f'output_stream: "OVMS_PY_TENSOR_{i}:{name}"' for i, name in enumerate(outputs)]
        path = tmp_path / "graph.pbtxt"
        path.write_text(edited("\n".join([*head, *nodes]), "HANDLER", handler.name))
        instance = Run(load_graph(GraphEntry("g", tmp_path, path)))
        return instance, instance.out

    return start


def feed(instance, *packets):
    for name, timestamp, text in packets:
        instance.add_input(Packet(name, timestamp, Tensor(name, text.encode())))
    while instance.step():
        pass


def finish(instance):
    instance.close_inputs()
    while instance.step():
        pass
    instance.close()


def test_outputs_carry_the_inputs_timestamp(run):
    instance, out = run([node("n", ["IN:in"], ["OUT:out"])])
    feed(instance, ("in", 5, "a"), ("in", 9, "b"))
    assert out == [("out", 5, "n(a)"), ("out", 9, "n(b)")]


def test_timestamps_of_a_stream_must_grow(run):
    instance, _ = run([node("n", ["IN:in"], ["OUT:out"])])
    feed(instance, ("in", 5, "a"))
    for timestamp in (5, 4, -(2**63), 2**63 - 1):
        with pytest.raises(ExecutionFailed, match="timestamp mismatch"):
            feed(instance, ("in", timestamp, "b"))


def test_default_handler_waits_for_all_inputs_at_a_timestamp(run):
    instance, out = run([node("n", ["B:x", "A:y"], ["OUT:out"])], inputs=("x", "y"))
    feed(instance, ("x", 1, "x1"))
    assert out == []
    feed(instance, ("y", 1, "y1"))
    assert out == [("out", 1, "n(y1,x1)")]  # by tag


def test_default_handler_leaves_out_what_can_no_longer_come(run):
    instance, out = run([node("n", ["A:x", "B:y"], ["OUT:out"])], inputs=("x", "y"))
    feed(instance, ("x", 1, "x1"), ("y", 2, "y2"))
    assert out == [("out", 1, "n(x1)")]
    feed(instance, ("x", 3, "x3"))
    assert out[1:] == [("out", 2, "n(y2)")]
    finish(instance)
    assert out[2:] == [("out", 3, "n(x3)")]


def test_immediate_handler_takes_what_comes(run):
    instance, out = run([node("n", ["A:x", "B:y"], ["OUT:out"], IMMEDIATE)], inputs=("x", "y"))
    feed(instance, ("x", 1, "x1"))
    feed(instance, ("y", 2, "y2"))
    feed(instance, ("y", 5, "y5"), ("x", 4, "x4"), ("x", 5, "x5"))
    assert out == [("out", 1, "n(x1)"), ("out", 2, "n(y2)"), ("out", 4, "n(x4)"), ("out", 5, "n(x5,y5)")]


def test_one_stream_may_go_to_two_inputs_of_a_node(run):
    instance, out = run([node("n", ["A:in", "B:in"], ["OUT:out"])])
    feed(instance, ("in", 1, "a"))
    assert out == [("out", 1, "n(a,a)")]


def test_sync_sets_are_on_their_own(run):
    handler = sync_sets(["A", "B"])
    instance, out = run([node("n", ["A:x", "B:y", "C:z"], ["OUT:out"], handler)], inputs=("x", "y", "z"))
    feed(instance, ("z", 1, "z1"), ("x", 2, "x2"))
    assert out == [("out", 1, "n(z1)")]
    feed(instance, ("y", 2, "y2"))
    assert out[1:] == [("out", 2, "n(x2,y2)")]


def test_nodes_in_a_row_and_side_by_side(run):
    nodes = [
        node("last", ["A:left", "B:right"], ["OUT:out"]),
        node("l", ["first"], ["left"]),
        node("r", ["IN:0:first"], ["OUT:0:right"]),
        node("f", ["IN:in"], ["OUT:first"]),
    ]
    instance, out = run(nodes, outputs=("out", "first"))
    feed(instance, ("in", 1, "a"), ("in", 2, "b"))
    assert [packet for packet in out if packet[0] == "out"] == [
        ("out", 1, "last(l(f(a)),r(f(a)))"),
        ("out", 2, "last(l(f(b)),r(f(b)))"),
    ]
    assert (
        out.index(("first", 1, "f(a)"))
        < out.index(("out", 1, "last(l(f(a)),r(f(a)))"))
        < out.index(("first", 2, "f(b)"))
    )


def test_a_node_that_gives_nothing_is_no_longer_waited_for_once_inputs_are_closed(run):
    code = edited(JOIN, "return [", "return [] if self.name == 'silent' else [")
    nodes = [node("silent", ["IN:in"], ["OUT:maybe"]), node("n", ["A:in", "B:maybe"], ["OUT:out"])]
    instance, out = run(nodes, code=code)
    feed(instance, ("in", 1, "a"))
    assert out == []
    finish(instance)
    assert out == [("out", 1, "n(a)")]


def test_a_generators_sets_count_up_from_the_requests_timestamp(run):
    instance, out = run([node("n", ["IN:in"], ["OUT:out"], BACK_EDGE + sync_sets(["LOOPBACK"]))], code=COUNT)
    feed(instance, ("in", 10, "3"))
    assert out == [("out", 10, "0"), ("out", 11, "1"), ("out", 12, "2")]
    feed(instance, ("in", 20, "1"))
    assert out[3:] == [("out", 20, "0")]


def test_a_set_leaves_when_the_next_one_has_been_computed(run):
    code = edited(COUNT, "yield [", "COMPUTED.append(number)\n            yield [")
    code = "import builtins\nCOMPUTED = builtins.computed_sets = []\n" + code + "        COMPUTED.append('end')\n"
    instance, out = run([node("n", ["IN:in"], ["OUT:out"], BACK_EDGE + sync_sets(["LOOPBACK"]))], code=code)
    instance.add_input(Packet("in", 10, Tensor("in", b"2")))
    assert instance.step()
    assert (builtins.computed_sets, out) == ([0, 1], [("out", 10, "0")])
    assert instance.step()
    assert (builtins.computed_sets, out) == ([0, 1, "end"], [("out", 10, "0"), ("out", 11, "1")])
    del builtins.computed_sets


def test_a_set_is_lost_when_computing_the_next_one_raises(run):
    code = edited(COUNT, "yield [", "assert number < 2\n            yield [")
    instance, out = run([node("n", ["IN:in"], ["OUT:out"], BACK_EDGE + sync_sets(["LOOPBACK"]))], code=code)
    with pytest.raises(ExecutionFailed, match="AssertionError"):
        feed(instance, ("in", 10, "5"))
    assert out == [("out", 10, "0")]


def test_a_generator_without_a_set_is_an_error(run):
    instance, _ = run([node("n", ["IN:in"], ["OUT:out"], BACK_EDGE + sync_sets(["LOOPBACK"]))], code=COUNT)
    with pytest.raises(ExecutionFailed, match="yielded nothing"):
        feed(instance, ("in", 10, "0"))


def test_an_exception_of_a_node_is_logged_for_debugging_only(run, caplog):
    caplog.set_level("DEBUG")
    instance, _ = run([node("n", ["IN:in"], ["OUT:out"])], code=edited(JOIN, "return [", "return 1 / 0, ["))
    with pytest.raises(ExecutionFailed, match="ZeroDivisionError"):
        feed(instance, ("in", 1, "a"))
    [record] = caplog.records
    assert (record.levelname, record.message) == ("DEBUG", "node n failed: ZeroDivisionError: division by zero")


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_generators_and_other_nodes_side_by_side_take_turns(run, order):
    code = """
from pyovms import Tensor
class OvmsPythonModel:
    def initialize(self, kwargs):
        self.output, *loop = kwargs["output_names"]
        self.counts = bool(loop)
    def execute(self, inputs):
        outputs = ([Tensor(self.output, str(number).encode())] for number in range(3))
        return outputs if self.counts else next(outputs)
"""
    cycle = BACK_EDGE + sync_sets(["LOOPBACK"])
    nodes = [
        node("first", ["IN:a"], ["OUT:x"], cycle),
        node("second", ["IN:b"], ["OUT:y"], edited(cycle, ":loop", ":loop_of_second")),
        node("other", ["IN:c"], ["OUT:z"]),
    ]
    instance, out = run([nodes[number] for number in order], outputs="xyz", inputs="abc", code=code)
    feed(instance, ("a", 1, ""), ("b", 1, ""), ("c", 1, ""))
    names = [name for name, _, _ in out]
    assert [sorted(names[:3]), sorted(names[3:5]), sorted(names[5:])] == [["x", "y", "z"], ["x", "y"], ["x", "y"]]


def test_data_for_a_running_generator_is_an_error(run):
    instance, out = run([node("n", ["IN:in"], ["OUT:out"], BACK_EDGE + sync_sets(["LOOPBACK"]))], code=COUNT)
    with pytest.raises(ExecutionFailed, match=r"RESOURCE_EXHAUSTED.*\n.*Node is already processing data"):
        feed(instance, ("in", 10, "3"), ("in", 11, "3"))
    assert out == [("out", 10, "0")]


def test_without_a_sync_set_a_cycle_waits_for_ever(run):
    instance, out = run([node("n", ["IN:in"], ["OUT:out"], BACK_EDGE)], code=COUNT)
    feed(instance, ("in", 10, "3"))
    finish(instance)
    assert out == []


def test_a_generator_runs_with_the_immediate_handler(run):
    instance, out = run([node("n", ["IN:in"], ["OUT:out"], BACK_EDGE + IMMEDIATE)], code=COUNT)
    feed(instance, ("in", 10, "2"))
    assert [text for _, _, text in out] == ["0", "1"]


def test_closing_closes_generators(run):
    code = edited(
        edited(COUNT, "yield [", "try:\n                yield ["),
        "encode())]",
        "encode())]\n            except GeneratorExit:\n                CLOSED.append(number)\n                raise",
    )
    code = "import builtins\nCLOSED = builtins.closed_generators = []\n" + code
    instance, _ = run([node("n", ["IN:in"], ["OUT:out"], BACK_EDGE + sync_sets(["LOOPBACK"]))], code=code)
    instance.add_input(Packet("in", 1, Tensor("in", b"5")))
    instance.step()
    instance.step()
    instance.close()
    assert builtins.closed_generators == [2]  # the set after those that have been output
    del builtins.closed_generators


def test_the_order_depends_on_nothing_but_the_order_of_packets(run):
    def once():
        nodes = [
            node("a", ["IN:x"], ["OUT:one"]),
            node("b", ["IN:y"], ["OUT:two"]),
            node("c", ["A:one", "B:two"], ["OUT:out"]),
        ]
        instance, out = run(nodes, outputs=("out", "one", "two"), inputs=("x", "y"))
        draw = random.Random(1)
        for timestamp in range(30):
            name = draw.choice("xy")
            instance.add_input(Packet(name, timestamp, Tensor(name, f"{name}{timestamp}".encode())))
            if draw.random() < 0.3:
                instance.step()
        finish(instance)
        return out

    first, second = once(), once()
    assert len(first) == 60  # each packet once from its own node, and once joined
    assert first == second
