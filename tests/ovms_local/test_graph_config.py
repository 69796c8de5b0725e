import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ovms_local
from ovms_local.graph_config import GraphConfigError, Stream, read_graph_config
from tests.support.servables import NODE
from tests.support.text import edited

HERE = Path(__file__).parent
HANDLER = '[type.googleapis.com / mediapipe.PythonExecutorCalculatorOptions]: { handler_path: "model.py" }'
REGULAR = NODE.format(handler="model.py")
OLDER_OPTIONS = "options { [mediapipe.PythonExecutorCalculatorOptions.ext] { handler_path: 'model.py' } }"
OTHER_OPTIONS = "node_options { [type.googleapis.com/mediapipe.SyncSetInputStreamHandlerOptions] { } }"
BROKEN_HANDLER = "type_url: 'type.googleapis.com/mediapipe.PythonExecutorCalculatorOptions' value: '\\n\\377'"
SYNC_SET = """
  input_stream_handler {
    input_stream_handler: "SyncSetInputStreamHandler",
    options { [mediapipe.SyncSetInputStreamHandlerOptions.ext] { sync_set { tag_index: "LOOPBACK:0" } } }
  }
"""
BACK_EDGE = "input_stream_info: { tag_index: 'LOOPBACK:0', back_edge: true }"
CYCLE = edited(
    REGULAR,
    'output_stream: "OUT:out"\n  node_options',
    'output_stream: "OUT:out"\n  input_stream: "LOOPBACK:loop"\n  output_stream: "LOOPBACK:loop"\n'
    f"  {BACK_EDGE}{SYNC_SET}  node_options",
)


@pytest.fixture
def parse(tmp_path):
    def parse_text(text):
        path = tmp_path / "graph.pbtxt"
        path.write_text(text)
        return read_graph_config(path)

    return parse_text


def test_a_regular_graph(parse):
    config = parse(REGULAR)
    [node] = config.nodes
    assert (config.inputs, config.outputs) == (("in",), ("out",))
    assert (node.name, node.handler_path, node.has_loopback) == ("node", "model.py", False)
    assert (node.inputs, node.outputs) == ((Stream("IN", "in"),), (Stream("OUT", "out"),))
    assert (node.sync_sets, node.immediate) == (((0,),), False)


def test_a_cycle(parse):
    [node] = parse(CYCLE).nodes
    assert node.has_loopback
    assert node.inputs == (Stream("IN", "in"), Stream("LOOPBACK", "loop"))
    assert node.sync_sets == ((1,), (0,))  # streams in no set form another set


def test_names_of_streams_are_in_the_order_of_the_file(parse):
    listed = 'input_stream: "Z:in"\n  input_stream: "A:two"'
    text = edited(CYCLE, 'input_stream: "IN:in"', listed)
    text = edited(text, '"OUT:out"', '"Z:out"\n  output_stream: "A:other"')
    [node] = parse('input_stream: "OVMS_PY_TENSOR_2:two"\n' + text).nodes
    assert node.input_names == ("in", "two", "loop")
    assert node.output_names == ("out", "other", "loop")
    assert [stream.tag for stream in node.inputs] == ["A", "LOOPBACK", "Z"]


@pytest.mark.parametrize(
    ("comment", "pooled"),
    [
        ("# OVMS_GRAPH_QUEUE_MAX_SIZE: 4", True), ("  #OVMS_GRAPH_QUEUE_MAX_SIZE :4  ", True),
        ("# OVMS_GRAPH_QUEUE_MAX_SIZE: AUTO", True), ("# OVMS_GRAPH_QUEUE_MAX_SIZE: 0", False),
        ("# no OVMS_GRAPH_QUEUE_MAX_SIZE: 4", False), ("", False),
    ],
)  # fmt: skip
def test_a_comment_asks_for_a_pool(parse, comment, pooled):
    assert parse(f"# first\n{comment}\n{REGULAR}").pooled == pooled
    assert parse(f"{REGULAR}\n{comment}").pooled == pooled


@pytest.mark.parametrize("size", ["-1", "many", "1.5", "99999999999"])
def test_a_pool_of_no_size_is_refused(parse, size):
    with pytest.raises(GraphConfigError, match=f"OVMS_GRAPH_QUEUE_MAX_SIZE is '{size}'"):
        parse(f"# OVMS_GRAPH_QUEUE_MAX_SIZE: {size}\n{REGULAR}")


def test_a_generator_has_no_pool(parse):
    with pytest.raises(GraphConfigError, match="LOOPBACK can't have a pool"):
        parse(f"# OVMS_GRAPH_QUEUE_MAX_SIZE: 2\n{CYCLE}")
    assert parse(f"# OVMS_GRAPH_QUEUE_MAX_SIZE: 0\n{CYCLE}").nodes


@pytest.mark.parametrize("text", ["in", "TAG:in", "TAG:0:in", "TAG_2:17:in"])
def test_ways_to_write_a_stream(parse, text):
    [node] = parse(edited(REGULAR, '"IN:in"', f'"{text}"')).nodes
    assert node.inputs[0].name == "in"


def test_handlers(parse):
    [node] = parse(
        edited(CYCLE, SYNC_SET, 'input_stream_handler { input_stream_handler: "ImmediateInputStreamHandler" }')
    ).nodes
    assert (node.sync_sets, node.immediate) == (((0,), (1,)), True)
    [node] = parse(edited(CYCLE, SYNC_SET, "")).nodes
    assert (node.sync_sets, node.immediate) == (((0, 1),), False)
    of_graph = 'input_stream_handler { input_stream_handler: "ImmediateInputStreamHandler" }'
    assert parse(REGULAR + of_graph).nodes[0].immediate


def test_what_a_graph_may_say_besides(parse):
    executor = "options { [mediapipe.ThreadPoolExecutorOptions.ext] { num_threads: 2 } }"
    besides = "profiler_config { enable_profiler: true } runtime_info { enable_graph_runtime_info: true }"
    assert parse(f'{REGULAR} {besides} executor {{ type: "ThreadPoolExecutor" {executor} }}') == parse(REGULAR)
    assert parse(edited(REGULAR, "node_options", "profiler_config { trace_enabled: true } node_options")).nodes
    assert parse("\ufeff" + REGULAR) == parse(REGULAR)


def test_nodes_run_after_their_sources_and_are_initialized_in_the_order_of_the_file(parse):
    first = edited(edited(REGULAR, '"OUT:out"', '"OUT:middle"'), '"node"', '"first"')
    second = edited(edited(REGULAR.partition("node {")[2], '"IN:in"', '"IN:middle"'), '"node"', '"second"')
    head, _, rest = first.partition("node {")
    config = parse(head + "node {" + second + "node {" + rest)
    assert [node.name for node in config.nodes] == ["second", "first"]
    assert [config.nodes[position].name for position in config.order] == ["first", "second"]


REFUSED = [
    (lambda _: "", "no nodes"),
    (lambda _: "node {", "Expected"),
    (lambda g: edited(g, "calculator:", "calculater:"), 'has no field named "calculater"'),
    (lambda g: edited(g, "PythonExecutorCalculator\"", "HttpLLMCalculator\""), "calculator 'HttpLLMCalculator'"),
    (lambda g: edited(g, '  name: "node"\n', ""), "has no name"),
    (lambda g: g + "node {" + edited(g.partition("node {")[2], '"OUT:out"', '"OUT:x"'), "'node' is used twice"),
    (lambda g: edited(g, '  input_side_packet: "PYTHON_NODE_RESOURCES:py"\n', ""), "input_side_packet"),
    (lambda g: edited(g, f"node_options: {{ {HANDLER} }}", ""), "no node_options"),
    (lambda g: edited(g, f"node_options: {{ {HANDLER} }}", OLDER_OPTIONS), "no node_options with a handler_path"),
    (lambda g: edited(g, "node_options", f"{OTHER_OPTIONS} node_options"), "no node_options with a handler_path"),
    (lambda g: edited(g, 'handler_path: "model.py"', ""), "handler_path"),
    (lambda g: edited(g, '"OVMS_PY_TENSOR:in"', '"TENSOR:in"'), "the tag 'TENSOR' is not supported"),
    (lambda g: edited(g, '"OVMS_PY_TENSOR:in"', '"in"'), "the tag '' is not supported"),
    (lambda g: 'input_stream: "OVMS_PY_TENSOR:two"\n' + g, "the tag 'OVMS_PY_TENSOR' twice"),
    (lambda g: edited(g, '"IN:in"', '"IN:in"\n  input_stream: "IN:1:in"'), "the tag 'IN' twice"),
    (lambda g: edited(g, '"IN:in"', '"IN:nowhere"'), "'nowhere' has no source"),
    (lambda g: edited(g, '"OVMS_PY_TENSOR:out"', '"OVMS_PY_TENSOR:nowhere"'), "'nowhere' has no source"),
    (lambda g: edited(g, '"OUT:out"', '"OUT:in"'), "'in' has two sources"),
    (lambda g: 'output_stream: "OVMS_PY_TENSOR_2:out"\n' + g, "the graph lists the stream 'out' twice"),
    (lambda g: 'input_stream: "OVMS_PY_TENSOR_2:in"\n' + g, "the graph lists the stream 'in' twice"),
    (lambda g: edited(g, '"IN:in"', '"in:IN"'), "invalid stream 'in:IN'"),
    (lambda g: edited(g, '  input_stream: "IN:in"\n', ""), "input_stream of the node 'node' has no streams"),
    (lambda g: edited(g, '  output_stream: "OUT:out"\n', ""), "output_stream of the node 'node' has no streams"),
    (lambda g: g + "input_stream_handler { input_stream_handler: 'B' }", "handler 'B' is not supported"),
    (lambda g: edited(g, '"IN:in"', '"IN:out"'), "form a cycle without a back_edge"),
    (lambda g: edited(g, HANDLER, BROKEN_HANDLER), "node_options that can't be decoded"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "text"), REFUSED)
def test_graphs_that_are_refused(parse, change, text):
    with pytest.raises(GraphConfigError) as caught:
        parse(change(REGULAR))
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('  input_stream: "LOOPBACK:loop"\n', "", "LOOPBACK"),
        ('  output_stream: "LOOPBACK:loop"\n', "", "must be both an input and an output"),
        ('output_stream: "LOOPBACK:loop"', 'output_stream: "LOOPBACK:other"', "with the same name"),
        (BACK_EDGE, "", "back_edge: true"),
        ("back_edge: true", "back_edge: false", "back_edge: true"),
        ("'LOOPBACK:0'", "'LOOPBACK:1'", "'LOOPBACK:1', which is not an input"),
        ("'LOOPBACK:0'", "'LOOPBACK:'", "'LOOPBACK:', which is not an input"),
        ("'LOOPBACK:0'", "'OTHER:0'", "'OTHER:0', which is not an input"),
        ("'LOOPBACK:0'", "'IN:0'", "back_edge: true"),
        ('"LOOPBACK:0"', '"LOOPBACK:1"', "names something that is not an input"),
        ('"LOOPBACK:0"', '"LOOPBACK:"', "names something that is not an input"),
        ('"LOOPBACK:0"', '"OTHER:0"', "names something that is not an input"),
        ('tag_index: "LOOPBACK:0"', "", "names something that is not an input"),
        ('sync_set {', 'sync_set { tag_index: "LOOPBACK:0" } sync_set {', "in two sync_sets"),
    ],
)  # fmt: skip
def test_cycles_that_are_refused(parse, old, new, text):
    with pytest.raises(GraphConfigError) as caught:
        parse(edited(CYCLE, old, new))
    assert text in str(caught.value)


def test_errors_of_the_text_format_have_line_and_column(parse):
    with pytest.raises(GraphConfigError, match=r"graph.pbtxt: 3:3 : .*nonsense"):
        parse('node {\n  name: "x"\n  nonsense: 1\n}')


def test_options_of_other_calculators_do_not_hide_which_calculator_it_is(parse):
    text = 'node { calculator: "HttpLLMCalculator" node_options { [type.googleapis.com/x.LLMOptions]: { a: 1 } } }'
    with pytest.raises(GraphConfigError, match="calculator 'HttpLLMCalculator' is not supported"):
        parse(text)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "binary.pbtxt").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "nowhere.pbtxt", tmp_path, tmp_path / "binary.pbtxt", tmp_path / "no\0file"):
        with pytest.raises(GraphConfigError, match="can't read the graph"):
            read_graph_config(path)


@pytest.mark.slow
def test_the_compiled_descriptor_is_that_of_the_proto(tmp_path):
    pytest.importorskip("grpc_tools", reason="grpcio-tools compiles the .proto")
    source = Path(ovms_local.__file__).parent
    shutil.copy(source / "mediapipe_graph.proto", tmp_path)
    compiled = tmp_path / "compiled.desc"
    arguments = [f"--proto_path={tmp_path}", "--include_imports", f"--descriptor_set_out={compiled}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", *arguments, str(tmp_path / "mediapipe_graph.proto")]
    subprocess.run(command, check=True)
    assert compiled.read_bytes() == (source / "mediapipe_graph.desc").read_bytes()


@pytest.mark.parametrize("path", sorted((HERE / "servable").glob("*.pbtxt")), ids=lambda path: path.name)
def test_the_graphs_of_the_tests_are_fine(path):
    assert read_graph_config(path).nodes
