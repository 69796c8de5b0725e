"""A graph and its instances: MediaPipe's scheduling of nodes, one step at a time.

An instance is a plain object that one thread at a time may step; it knows nothing of threads, clients or requests.
Which node runs next depends only on the order of packets: it is the ready node that has not run for the longest time,
initially the one furthest downstream. So packets under way leave the graph before new ones enter it, and a generator
does not starve the other nodes.
"""

import logging
import math
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ovms_local.errors import ExecutionFailed, TimestampMismatch, describe
from ovms_local.graph_config import GraphConfig, NodeConfig
from ovms_local.pyovms import Tensor

_log = logging.getLogger(__name__)

# The range of a packet's timestamp: mediapipe::Timestamp::Min() and Max().
MIN_TIMESTAMP, MAX_TIMESTAMP = -(2**63) + 3, 2**63 - 4


class Packet(NamedTuple):
    """A tensor on a stream, with its timestamp."""

    stream: str
    timestamp: int
    tensor: Tensor


class Tick(NamedTuple):
    """A packet without a tensor, as sent on LOOPBACK."""

    stream: str
    timestamp: int


class NodeBusy(Exception):
    """Data arrived at a node that is still processing earlier data."""


class NodeRun(Protocol):
    """A node's run within one graph instance (in MediaPipe, a calculator from Open to Close)."""

    def process(self, timestamp: int, tensors: list[Tensor]) -> list[Packet | Tick]:
        """Process the inputs of one timestamp, ordered by tag, and return the node's output packets.

        Raises:
            NodeBusy: the node accepts no data now.
            BaseException: any other error, which also makes the graph fail without output.
        """
        ...

    def close(self) -> None:
        """Abandon the work under way.

        Raises:
            BaseException: any error; the run counts as closed nonetheless.
        """
        ...


class Node(Protocol):
    """A node of a loaded graph, shared by all instances of the graph."""

    @property
    def config(self) -> NodeConfig: ...

    def open(self) -> NodeRun:
        """Start the node for one instance."""
        ...

    def finalize(self) -> None:
        """Tell the node that its graph is being unloaded."""
        ...


@dataclass(frozen=True, slots=True)
class Graph:
    """A loaded graph: its description and its nodes, shared by all instances."""

    name: str
    config: GraphConfig
    nodes: tuple[Node, ...]

    def finalize(self) -> None:
        """Finalize the nodes, at the end of the graph's life."""
        for node in self.nodes:
            node.finalize()


class _Waiting(NamedTuple):
    """A packet waiting at a node's input; `order` numbers the packets of an instance."""

    timestamp: int
    order: int
    tensor: Tensor | None


class _InputQueue:
    """Packets waiting at one input of a node; `bound` is the lowest timestamp that can still arrive."""

    __slots__ = ("bound", "packets")

    def __init__(self) -> None:
        self.packets: deque[_Waiting] = deque()
        self.bound: float = -math.inf

    def next_timestamp(self) -> float:
        return self.packets[0].timestamp if self.packets else self.bound


class _NodeState:
    """A node within one instance: its queues and its run."""

    __slots__ = ("closed", "config", "queues", "run")

    def __init__(self, node: Node) -> None:
        self.config = node.config
        self.run = node.open()
        self.queues = [_InputQueue() for _ in node.config.inputs]
        self.closed = False

    def ready(self) -> tuple[int, tuple[int, ...]] | None:
        """Return timestamp and inputs to process next: of the complete sets, the one that has waited longest."""
        candidates = []
        for sync_set in self.config.sync_sets:
            queues = [self.queues[position] for position in sync_set]
            waiting = [queue.packets[0] for queue in queues if queue.packets]
            if waiting and (timestamp := min(packet.timestamp for packet in waiting)) < min(
                (queue.bound for queue in queues if not queue.packets), default=math.inf
            ):
                order = min(packet.order for packet in waiting if packet.timestamp == timestamp)
                candidates.append((timestamp if self.config.immediate else order, timestamp, sync_set))
        if not candidates:
            return None
        key, timestamp, sync_set = min(candidates)
        if self.config.immediate:
            sync_set = tuple(position for other, _, (position,) in candidates if other == key)
        return timestamp, sync_set

    def take(self, timestamp: int, positions: tuple[int, ...]) -> list[Tensor]:
        """Remove the packets of this timestamp, and return their tensors, ordered by tag."""
        taken = []
        for position in sorted(positions):
            packets = self.queues[position].packets
            if packets and packets[0].timestamp == timestamp:
                taken.append(packets.popleft().tensor)
        return [tensor for tensor in taken if tensor is not None]

    def exhausted(self) -> bool:
        return all(queue.next_timestamp() == math.inf for queue in self.queues)


class GraphInstance:
    """One run of a graph: for a unary request, or for the whole life of a stream."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        in_turn = reversed(graph.config.order)
        self._nodes = [_NodeState(graph.nodes[position]) for position in in_turn]
        self._consumers: dict[str, list[_InputQueue]] = {name: [] for name in graph.config.inputs}
        self._bounds: dict[str, float] = dict.fromkeys(graph.config.inputs, MIN_TIMESTAMP)
        for state in self._nodes:
            for stream in state.config.outputs:
                self._consumers.setdefault(stream.name, [])
                self._bounds[stream.name] = MIN_TIMESTAMP
        for state in self._nodes:
            for stream, queue in zip(state.config.inputs, state.queues, strict=True):
                self._consumers[stream.name].append(queue)
        self._packets = 0
        self.inputs_closed = False

    def add_input(self, packet: Packet) -> None:
        """Put a packet on a stream of the graph. The timestamps of a stream must increase.

        Raises:
            TimestampMismatch: this one does not; the instance can then only be closed.
        """
        if packet.timestamp < self._bounds[packet.stream]:
            raise TimestampMismatch(packet.stream, self._bounds[packet.stream], packet.timestamp)
        self._add(packet)

    def close_inputs(self) -> None:
        """Signal that no more packets will be added."""
        self.inputs_closed = True
        for name in self._graph.config.inputs:
            self._close_stream(name)

    def step(self) -> list[Packet] | None:
        """Run the next node once and return the packets that leave the graph; None if no node is ready.

        Raises:
            ExecutionFailed: the node failed; the instance can then only be closed.
        """
        for state in self._nodes:
            if ready := state.ready():
                self._nodes.remove(state)
                self._nodes.append(state)
                return self._process(state, *ready)
            if not state.closed and state.exhausted():
                state.closed = True
                for stream in state.config.outputs:
                    self._close_stream(stream.name)
                return []
        return None

    def close(self) -> None:
        """Abandon the nodes' work under way, so that the `finally` blocks of generators run."""
        for state in self._nodes:
            try:
                state.run.close()
            except BaseException as error:
                _log.error("node %s failed while being closed: %s", state.config.name, describe(error))
            for queue in state.queues:
                queue.packets.clear()

    def _process(self, state: _NodeState, timestamp: int, positions: tuple[int, ...]) -> list[Packet]:
        tensors = state.take(timestamp, positions)
        try:
            packets = state.run.process(timestamp, tensors)
            for packet in packets:
                self._check_output(packet)
        except NodeBusy:
            details = "Node is already processing data. Create new stream for another request."
            raise _failure(state.config.name, "RESOURCE_EXHAUSTED", details) from None
        except BaseException as error:  # includes SystemExit and the like
            _log.debug("node %s failed: %s", state.config.name, describe(error), exc_info=error)
            details = f"Error occurred during graph execution: {describe(error)}"
            raise _failure(state.config.name, "INTERNAL", details) from error
        for packet in packets:
            self._add(packet)
        outputs = self._graph.config.outputs
        return [packet for packet in packets if isinstance(packet, Packet) and packet.stream in outputs]

    def _check_output(self, packet: Packet | Tick) -> None:
        name, timestamp = packet.stream, packet.timestamp
        if not self._bounds[name] <= timestamp <= MAX_TIMESTAMP:
            lowest = self._bounds[name]
            raise ValueError(f"timestamp mismatch on the stream {name!r}: expected {lowest} or more, got {timestamp}")
        if name not in self._graph.config.outputs:
            return
        if isinstance(packet, Tick):
            raise ValueError(f"{name!r} is a LOOPBACK: it has no tensor for the client")
        if not packet.tensor.data.c_contiguous:
            raise ValueError(f"the buffer of {name!r} is not contiguous: the client would receive scrambled data")

    def _add(self, packet: Packet | Tick) -> None:
        name, timestamp = packet.stream, packet.timestamp
        tensor = packet.tensor if isinstance(packet, Packet) else None
        self._bounds[name] = timestamp + 1
        self._packets += 1
        for queue in self._consumers[name]:
            queue.packets.append(_Waiting(timestamp, self._packets, tensor))
            queue.bound = timestamp + 1

    def _close_stream(self, name: str) -> None:
        self._bounds[name] = math.inf
        for queue in self._consumers[name]:
            queue.bound = math.inf


def _failure(node: str, code: str, details: str) -> ExecutionFailed:
    return ExecutionFailed(
        f'{code}: CalculatorGraph::Run() failed: \nCalculator::Process() for node "{node}" failed: {details}'
    )
