"""graph.pbtxt: parses MediaPipe's text format and checks the graph of Python nodes that it describes."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError, Message

LOOPBACK = "LOOPBACK"
_CALCULATOR = "PythonExecutorCalculator"
_OPTIONS = "mediapipe.PythonExecutorCalculatorOptions"
_GRAPH_TAG = "OVMS_PY_TENSOR"
_RESOURCES_TAG, _RESOURCES_NAME = "PYTHON_NODE_RESOURCES", "py"
_HANDLERS = ("DefaultInputStreamHandler", "ImmediateInputStreamHandler", "SyncSetInputStreamHandler")
_POOL_SIZE = re.compile(r"(?:^|\n)\s*#\s*OVMS_GRAPH_QUEUE_MAX_SIZE\s*:\s*(\S+)\s*(?:\r?\n|$)")
_DESCRIPTORS = Path(__file__).with_name("mediapipe_graph.desc")


class GraphConfigError(ValueError):
    """A graph can't be loaded; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One end of a stream at a node: `TAG:name`, `TAG:index:name` or `name` (an empty tag)."""

    tag: str
    name: str


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """A Python node. `inputs` and `outputs` are sorted by tag; their names are in the order of the file.

    `sync_sets` are the sets of inputs (indexes into `inputs`) that the node waits for together. With `immediate`, each
    input is a set of its own, and inputs with packets at the same timestamp are processed together.
    """

    name: str
    handler_path: str
    inputs: tuple[Stream, ...]
    outputs: tuple[Stream, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    sync_sets: tuple[tuple[int, ...], ...]
    immediate: bool

    @property
    def has_loopback(self) -> bool:
        """Whether `execute` may be a generator."""
        return any(stream.tag == LOOPBACK for stream in self.inputs)


@dataclass(frozen=True, slots=True)
class GraphConfig:
    """A graph of Python nodes.

    `inputs` and `outputs` are the sorted names of the graph's streams. `nodes` are in the order of the file; `order`
    lists their indexes so that each node comes after its sources. `pooled` says whether the graph asks for instances
    that are created before any request arrives.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[NodeConfig, ...]
    order: tuple[int, ...]
    pooled: bool


def read_graph_config(path: Path) -> GraphConfig:
    """Read and check a graph file.

    Raises:
        GraphConfigError: the file can't be read or parsed (with line and column), or the graph can't be run.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or an impossible path
        raise GraphConfigError(f"can't read the graph {path}: {getattr(error, 'strerror', None) or error}") from error
    return _build(_parse(text, path), _pool_size(text))


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    # A pool of our own: a servable may import the real mediapipe package, which registers the same names.
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(_DESCRIPTORS.read_bytes()).file:
        pool.Add(file)
    return pool


def _new_message(full_name: str) -> Message:
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(full_name))()


def _parse(text: str, path: Path) -> Message:
    graph = _new_message("mediapipe.CalculatorGraphConfig")
    try:
        text_format.Parse(text, graph, descriptor_pool=_pool())
    except (text_format.ParseError, RecursionError) as error:
        _refuse_other_calculators(re.findall(r'^[^#]*?\bcalculator\s*:\s*["\'](.*?)["\']', text, re.MULTILINE))
        raise GraphConfigError(f"can't parse the graph {path}: {error}") from error
    return graph


def _refuse_other_calculators(calculators: list[str]) -> None:
    for calculator in calculators:
        if calculator != _CALCULATOR:
            raise GraphConfigError(f"calculator {calculator!r} is not supported: only {_CALCULATOR} is")


def _pool_size(text: str) -> int:
    """Return the pool size from the comment `# OVMS_GRAPH_QUEUE_MAX_SIZE: N`."""
    match = _POOL_SIZE.search(text)
    if not match:
        return 0
    if match[1] == "AUTO":
        return 1
    if not re.fullmatch(r"[0-9]{1,9}", match[1]):
        raise GraphConfigError(
            f"OVMS_GRAPH_QUEUE_MAX_SIZE is {match[1]!r}: must be 0 (no pool), the number of graphs in it, or AUTO"
        )
    return int(match[1])


def _build(graph: Message, pool_size: int) -> GraphConfig:
    _refuse_other_calculators([node.calculator for node in graph.node])
    if not graph.node:
        raise GraphConfigError("the graph has no nodes")
    nodes = [_build_node(node, graph.input_stream_handler) for node in graph.node]
    names = [node.name for node in nodes]
    if twice := _first_repeated(names):
        raise GraphConfigError(f"the node name {twice!r} is used twice")
    if pool_size and any(node.has_loopback for node in nodes):
        raise GraphConfigError(f"a graph with {LOOPBACK} can't have a pool: remove OVMS_GRAPH_QUEUE_MAX_SIZE")
    inputs, outputs = _graph_streams(graph.input_stream), _graph_streams(graph.output_stream)
    _check_connections(inputs, outputs, nodes)
    back_edges = {(node.name, _stream(text).name) for node in graph.node for text in _back_edge_streams(node)}
    return GraphConfig(inputs, outputs, tuple(nodes), _order(inputs, nodes, back_edges), pooled=pool_size > 0)


def _stream(text: str) -> Stream:
    match = re.fullmatch(r"(?:([A-Z_][A-Z0-9_]*):(?:\d+:)?)?([a-z_][a-z0-9_]*)", text)
    if not match:
        raise GraphConfigError(
            f"invalid stream {text!r}: write TAG:name, with the tag in upper case and the name in lower case"
        )
    return Stream(match[1] or "", match[2])


def _streams(texts: list[str], where: str) -> tuple[Stream, ...]:
    streams = tuple(_stream(text) for text in texts)
    if not streams:
        raise GraphConfigError(f"{where} has no streams")
    if (twice := _first_repeated([stream.tag for stream in streams])) is not None:
        raise GraphConfigError(f"{where} has the tag {twice!r} twice: each stream needs its own tag")
    return streams


def _graph_streams(texts: list[str]) -> tuple[str, ...]:
    streams = _streams(texts, "the graph's input_stream or output_stream")
    for stream in streams:
        if not stream.tag.startswith(_GRAPH_TAG):
            raise GraphConfigError(f"the tag {stream.tag!r} is not supported: a graph's tags begin with {_GRAPH_TAG}")
    if twice := _first_repeated([stream.name for stream in streams]):
        raise GraphConfigError(f"the graph lists the stream {twice!r} twice")
    return tuple(sorted(stream.name for stream in streams))


def _first_repeated(names: list[str]) -> str | None:
    return next((name for position, name in enumerate(names) if name in names[:position]), None)


def _build_node(node: Message, graph_handler: Message) -> NodeConfig:
    if not node.name:
        raise GraphConfigError(f"a {_CALCULATOR} has no name")
    where = f"the node {node.name!r}"
    listed = _streams(node.input_stream, f"input_stream of {where}")
    listed_outputs = _streams(node.output_stream, f"output_stream of {where}")
    inputs, outputs = _by_tag(listed), _by_tag(listed_outputs)
    if Stream(_RESOURCES_TAG, _RESOURCES_NAME) not in map(_stream, node.input_side_packet):
        raise GraphConfigError(f'{where} has no input_side_packet: "{_RESOURCES_TAG}:{_RESOURCES_NAME}"')
    _check_loopback(node, inputs, outputs, where)
    handler = node.input_stream_handler if node.HasField("input_stream_handler") else graph_handler
    if handler.input_stream_handler not in _HANDLERS:
        raise GraphConfigError(f"{where}: the input stream handler {handler.input_stream_handler!r} is not supported")
    return NodeConfig(
        node.name, _handler_path(node, where), inputs, outputs, _names(listed), _names(listed_outputs),
        _sync_sets(handler, inputs, where),
        immediate=handler.input_stream_handler == "ImmediateInputStreamHandler",
    )  # fmt: skip


def _by_tag(streams: tuple[Stream, ...]) -> tuple[Stream, ...]:
    return tuple(sorted(streams, key=lambda stream: stream.tag))


def _names(streams: tuple[Stream, ...]) -> tuple[str, ...]:
    return tuple(stream.name for stream in streams)


def _handler_path(node: Message, where: str) -> str:
    options = _new_message(_OPTIONS)
    try:
        for first in node.node_options[:1]:  # the server reads no other, and not the older field `options`
            first.Unpack(options)
    except DecodeError:
        raise GraphConfigError(f"{where} has node_options that can't be decoded") from None
    if not options.handler_path:
        raise GraphConfigError(f"{where} has no node_options with a handler_path")
    path: str = options.handler_path
    return path


def _tag_of(tag_index: str, inputs: tuple[Stream, ...]) -> int | None:
    """Return the index of the input named by `TAG:0` (or `TAG`), or None if there is none."""
    matches = [position for position, stream in enumerate(inputs) if tag_index in (stream.tag, f"{stream.tag}:0")]
    return matches[0] if matches else None


def _back_edge_streams(node: Message) -> list[str]:
    tags = {info.tag_index.partition(":")[0] for info in node.input_stream_info if info.back_edge}
    return [text for text in node.input_stream if _stream(text).tag in tags]


def _check_loopback(node: Message, inputs: tuple[Stream, ...], outputs: tuple[Stream, ...], where: str) -> None:
    for info in node.input_stream_info:
        if _tag_of(info.tag_index, inputs) is None:
            raise GraphConfigError(f"{where}: input_stream_info names {info.tag_index!r}, which is not an input")
    incoming = [stream for stream in inputs if stream.tag == LOOPBACK]
    outgoing = [stream for stream in outputs if stream.tag == LOOPBACK]
    if incoming != outgoing:
        raise GraphConfigError(f"{where}: {LOOPBACK} must be both an input and an output, with the same name")
    if incoming and incoming[0] not in map(_stream, _back_edge_streams(node)):
        raise GraphConfigError(f"{where}: the input {LOOPBACK} needs input_stream_info with back_edge: true")


def _sync_sets(handler: Message, inputs: tuple[Stream, ...], where: str) -> tuple[tuple[int, ...], ...]:
    all_positions = tuple(range(len(inputs)))
    if handler.input_stream_handler == "ImmediateInputStreamHandler":
        return tuple((position,) for position in all_positions)
    if handler.input_stream_handler == "DefaultInputStreamHandler":
        return (all_positions,)
    extension = _pool().FindExtensionByName("mediapipe.SyncSetInputStreamHandlerOptions.ext")
    sets = []
    for sync_set in handler.options.Extensions[extension].sync_set:
        found = [_tag_of(tag_index, inputs) for tag_index in sync_set.tag_index]
        positions = tuple(position for position in found if position is not None)
        if not positions or len(positions) < len(found):
            raise GraphConfigError(
                f"{where}: the sync_set {list(sync_set.tag_index)} names something that is not an input"
            )
        sets.append(positions)
    assigned = [position for positions in sets for position in positions]
    if len(assigned) != len(set(assigned)):
        raise GraphConfigError(f"{where}: an input is in two sync_sets")
    unassigned = tuple(position for position in all_positions if position not in assigned)
    return tuple(sets) + ((unassigned,) if unassigned else ())


def _check_connections(inputs: tuple[str, ...], outputs: tuple[str, ...], nodes: list[NodeConfig]) -> None:
    produced = [*inputs, *(name for node in nodes for name in node.output_names)]
    if twice := _first_repeated(produced):
        raise GraphConfigError(f"the stream {twice!r} has two sources")
    for name in (*outputs, *(name for node in nodes for name in node.input_names)):
        if name not in produced:
            raise GraphConfigError(f"the stream {name!r} has no source")


def _order(inputs: tuple[str, ...], nodes: list[NodeConfig], back_edges: set[tuple[str, str]]) -> tuple[int, ...]:
    """Return the indexes of the nodes, each after its sources."""
    known = set(inputs)
    waiting, ordered = list(range(len(nodes))), []
    while waiting:
        for position in waiting:
            node = nodes[position]
            if all(name in known or (node.name, name) in back_edges for name in node.input_names):
                break
        else:
            names = ", ".join(repr(nodes[position].name) for position in waiting)
            raise GraphConfigError(f"the nodes {names} form a cycle without a back_edge")
        waiting.remove(position)
        ordered.append(position)
        known.update(node.output_names)
    return tuple(ordered)
