"""A graph and its instances: MediaPipe's scheduling for Python nodes, one step at a time.

An instance is a plain object that one thread at a time may step; it knows nothing of threads, clients or requests.
Which node runs next depends on nothing but the order in which packets came: of the nodes that are ready, the one that
has not run for longest, and at first the one furthest downstream. So what is under way leaves the graph before new work
enters it, and a generator leaves the other nodes their turns.
"""

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ovms_local.errors import ExecutionFailed, describe
from ovms_local.graph_config import LOOPBACK, GraphConfig, NodeConfig
from ovms_local.pyovms import Tensor
from ovms_local.python_node import PythonNode

_log = logging.getLogger(__name__)

# The range of a packet's timestamp: mediapipe::Timestamp::Min() and Max().
MIN_TIMESTAMP, MAX_TIMESTAMP = -(2**63) + 3, 2**63 - 4


class Packet(NamedTuple):
    """What travels on a stream; `order` counts the packets of an instance, the tensor is None on LOOPBACK."""

    timestamp: int
    order: int
    tensor: Tensor | None


@dataclass(frozen=True, slots=True)
class Graph:
    """A loaded graph: its description and its nodes, shared by all instances."""

    name: str
    config: GraphConfig
    nodes: tuple[PythonNode, ...]

    def finalize(self) -> None:
        """Finalize the nodes, at the end of the graph's life."""
        for node in self.nodes:
            node.finalize()


class _InputQueue:
    """Packets that wait at one input of a node. `bound` is the lowest timestamp that can still come."""

    __slots__ = ("bound", "packets")

    def __init__(self) -> None:
        self.packets: deque[Packet] = deque()
        self.bound: float = -math.inf

    def next_timestamp(self) -> float:
        return self.packets[0].timestamp if self.packets else self.bound


class _NodeState:
    """A node within one instance: its queues, and its generator while one runs."""

    __slots__ = ("closed", "config", "generator", "next_timestamp", "node", "queues")

    def __init__(self, node: PythonNode) -> None:
        self.node = node
        self.config: NodeConfig = node.config
        self.queues = [_InputQueue() for _ in node.config.inputs]
        self.generator: Iterator | None = None
        self.next_timestamp = 0
        self.closed = False

    def ready(self) -> tuple[int, tuple[int, ...]] | None:
        """The timestamp and the inputs to process next: of the sets that are complete, the one that waits longest."""
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
        """Remove the packets of this timestamp; the tensors among them, ordered by tag."""
        taken = []
        for position in sorted(positions):
            packets = self.queues[position].packets
            if packets and packets[0].timestamp == timestamp:
                taken.append(packets.popleft().tensor)
        return [tensor for tensor in taken if tensor is not None]

    def exhausted(self) -> bool:
        return all(queue.next_timestamp() == math.inf for queue in self.queues)


class _Busy(Exception):
    """Data came for a node whose generator still runs."""


class GraphInstance:
    """One run of a graph: of a unary request, or of a stream for its whole life."""

    def __init__(self, graph: Graph, emit: Callable[[int, Tensor], None]) -> None:
        """`emit` gets each packet that leaves the graph: its timestamp and its tensor."""
        self._graph = graph
        self._emit = emit
        self._nodes = [_NodeState(node) for node in reversed(graph.nodes)]  # in the order of their turns
        self._consumers: dict[str, list[_InputQueue]] = {name: [] for name in graph.config.inputs}
        self._bounds: dict[str, float] = dict.fromkeys(graph.config.inputs, -math.inf)
        for state in self._nodes:
            for stream in state.config.outputs:
                self._consumers.setdefault(stream.name, [])
                self._bounds[stream.name] = -math.inf
        for state in self._nodes:
            for stream, queue in zip(state.config.inputs, state.queues, strict=True):
                self._consumers[stream.name].append(queue)
        self._packets = 0
        self.inputs_closed = False

    def add_input(self, tensor: Tensor, timestamp: int) -> None:
        """Put a packet on a stream of the graph. Timestamps of a stream must grow.

        Raises:
            ValueError: this one does not.
        """
        self._add(tensor.name, timestamp, tensor)

    def close_inputs(self) -> None:
        """Say that no more packets come from outside."""
        self.inputs_closed = True
        for name in self._graph.config.inputs:
            self._close_stream(name)

    def step(self) -> bool:
        """Run the node whose turn it is, once. False: nothing is ready.

        Raises:
            ExecutionFailed: the node failed; the instance can only be closed then.
        """
        for state in self._nodes:
            if ready := state.ready():
                self._nodes.remove(state)
                self._nodes.append(state)
                self._process(state, *ready)
                return True
            if not state.closed and state.exhausted():
                state.closed = True
                for stream in state.config.outputs:
                    self._close_stream(stream.name)
                return True
        return False

    def close(self) -> None:
        """Close the generators that still run, so that their `finally` blocks do."""
        for state in self._nodes:
            generator, state.generator = state.generator, None
            close = getattr(generator, "close", None)
            if close:
                try:
                    close()
                except BaseException as error:
                    _log_failure(state.config.name, error)
            for queue in state.queues:
                queue.packets.clear()

    def _process(self, state: _NodeState, timestamp: int, positions: tuple[int, ...]) -> None:
        tensors = state.take(timestamp, positions)
        try:
            if state.generator is None:
                state.next_timestamp = timestamp
                result = state.node.execute(tensors)
                if isinstance(result, list):
                    self._add_outputs(state, result)
                else:
                    state.generator = result
                    self._advance(state)
            elif tensors:
                raise _Busy
            else:
                self._advance(state)
        except _Busy:
            details = "Node is already processing data. Create new stream for another request."
            raise _failure(state.config.name, "RESOURCE_EXHAUSTED", details) from None
        except BaseException as error:  # a node that raises SystemExit or the like has failed too
            _log_failure(state.config.name, error)
            details = f"Error occurred during graph execution: {describe(error)}"
            raise _failure(state.config.name, "INTERNAL", details) from error

    def _advance(self, state: _NodeState) -> None:
        try:
            outputs = next(state.generator)
        except StopIteration:
            state.generator = None
            return
        self._add_outputs(state, state.node.check_outputs(outputs))
        state.next_timestamp += 1
        self._add(_loopback(state.config), state.next_timestamp, None)

    def _add_outputs(self, state: _NodeState, outputs: list[Tensor]) -> None:
        if len(outputs) > 1:
            by_name = {tensor.name: tensor for tensor in outputs}
            outputs = [by_name[stream.name] for stream in state.config.outputs if stream.name in by_name]
        for tensor in outputs:
            if tensor.name in self._graph.config.outputs and not tensor.data.c_contiguous:
                raise ValueError(f"the buffer of {tensor.name!r} is not contiguous: the client would get it scrambled")
            self._check_timestamp(tensor.name, state.next_timestamp)
        for tensor in outputs:
            self._add(tensor.name, state.next_timestamp, tensor)

    def _add(self, name: str, timestamp: int, tensor: Tensor | None) -> None:
        self._check_timestamp(name, timestamp)
        self._bounds[name] = timestamp + 1
        if tensor is not None and name in self._graph.config.outputs:
            self._emit(timestamp, tensor)
        self._packets += 1
        for queue in self._consumers[name]:
            queue.packets.append(Packet(timestamp, self._packets, tensor))
            queue.bound = timestamp + 1

    def _check_timestamp(self, name: str, timestamp: int) -> None:
        lowest = max(self._bounds[name], MIN_TIMESTAMP)
        if not lowest <= timestamp <= MAX_TIMESTAMP:
            raise ValueError(f"timestamp mismatch on the stream {name!r}: expected {lowest} or more, got {timestamp}")

    def _close_stream(self, name: str) -> None:
        self._bounds[name] = math.inf
        for queue in self._consumers[name]:
            queue.bound = math.inf


def _loopback(config: NodeConfig) -> str:
    return next(stream.name for stream in config.outputs if stream.tag == LOOPBACK)


def _failure(node: str, code: str, details: str) -> ExecutionFailed:
    return ExecutionFailed(
        f'{code}: CalculatorGraph::Run() failed: \nCalculator::Process() for node "{node}" failed: {details}'
    )


def _log_failure(node: str, error: BaseException) -> None:
    _log.error("node %s failed: %s", node, describe(error))
    _log.debug("traceback of node %s", node, exc_info=error)
