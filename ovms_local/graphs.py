"""The served graphs: the life cycle of each, from its first load to its end, while requests come and go."""

import enum
import gc
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ovms_local.errors import GraphNotFound, ModelNotAvailable, ModelNotFound, ModelRetired
from ovms_local.graph import Graph
from ovms_local.graph_config import GraphConfig
from ovms_local.loader import GraphLoadError, load_graph
from ovms_local.metrics import Metrics
from ovms_local.server_config import GraphEntry

_log = logging.getLogger(__name__)

# How many seconds a request waits for a graph that is being reloaded, as in the real server.
_RELOAD_WAIT = 0.5
# A graph.pbtxt is re-read until two reads agree: maximum number of reads, and seconds between them.
_ATTEMPTS, _PAUSE = 5, 0.01


class GraphState(enum.Enum):
    """A graph's state; the values are the state and error code that `/v1/config` reports."""

    RELOADING = ("LOADING", "OK")
    AVAILABLE = ("AVAILABLE", "OK")
    FAILED = ("LOADING", "FAILED_PRECONDITION")
    RETIRED = ("END", "OK")


class LoadedGraph:
    """A graph with its number of requests; once dropped, it is finalized when the last of them ends."""

    __slots__ = ("_graph", "config", "dropped", "uses")

    def __init__(self, graph: Graph) -> None:
        self._graph: Graph | None = graph
        self.config = graph.config
        self.uses = 0
        self.dropped = False

    @property
    def graph(self) -> Graph:
        """The graph, which must not have been finalized."""
        assert self._graph is not None, "the graph is finalized"
        return self._graph

    def take(self) -> Graph | None:
        """Return the graph for finalization, or None if another caller finalizes it."""
        graph, self._graph = self._graph, None
        return graph


class _Servable:
    """A name known to the server, with the files it was loaded from and its graph, if any."""

    def __init__(self, entry: GraphEntry) -> None:
        self.entry = entry
        self.text: bytes | None = None
        self.state = GraphState.RELOADING
        self.loaded: LoadedGraph | None = None


class Graphs:
    """The graphs by name. Only one thread at a time may update them; any thread may use them."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._servables: dict[str, _Servable] = {}
        self._dropped: set[LoadedGraph] = set()
        self._closing = False
        self._changed = threading.Condition()

    def wait_reloaded(self, name: str) -> None:
        """Wait at most half a second for a graph that is being reloaded; not for the event loop's thread."""
        if self.is_reloading(name):
            with self._changed:
                self._changed.wait_for(lambda: not self.is_reloading(name), _RELOAD_WAIT)

    def is_reloading(self, name: str) -> bool:
        """Whether the graph is being reloaded."""
        servable = self._servables.get(name)
        return servable is not None and servable.state is GraphState.RELOADING

    def acquire(self, name: str) -> LoadedGraph:
        """Return the graph for a request, which must release it.

        Raises:
            GraphNotFound, ModelNotAvailable, ModelRetired
        """
        with self._changed:
            servable = self._servables.get(name)
            if servable is None:
                raise GraphNotFound
            loaded = self._loaded(servable)
            loaded.uses += 1
            return loaded

    def release(self, loaded: LoadedGraph) -> None:
        """Give back a graph from `acquire`; not for the event loop's thread, since this may finalize the graph."""
        with self._changed:
            loaded.uses -= 1
            if not loaded.uses:
                self._changed.notify_all()
            over = loaded.dropped and not loaded.uses
        if over:
            self._finalize(loaded)

    @contextmanager
    def use(self, name: str) -> Iterator[Graph]:
        """Hold the graph during the `with` block; waits for a reload, and raises the errors of `acquire`."""
        self.wait_reloaded(name)
        loaded = self.acquire(name)
        try:
            yield loaded.graph
        finally:
            self.release(loaded)

    def is_available(self, name: str) -> bool:
        """Whether the graph accepts requests.

        Raises:
            ModelNotFound
        """
        return self._find(name).state is GraphState.AVAILABLE and not self._closing

    def config(self, name: str) -> GraphConfig:
        """Return the graph's description.

        Raises:
            ModelNotFound, ModelNotAvailable, ModelRetired
        """
        return self._loaded(self._find(name)).config

    def states(self) -> dict[str, GraphState]:
        """Return the known graphs, sorted by name, without those that are being loaded for the first time."""
        return {name: servable.state for name, servable in sorted(self._servables.items())}

    def update(self, entries: Iterable[GraphEntry]) -> None:
        """Serve exactly these graphs: first retire those removed, then load or reload those new or changed."""
        entries = tuple(entries)
        wanted = {entry.name for entry in entries}
        changed = False
        for name, servable in self._servables.items():
            if name not in wanted and servable.state is not GraphState.RETIRED:
                self._retire(name, servable)
                changed = True
        for entry in entries:
            if not self._closing and self._needs_load(entry):
                self._load(entry)
                changed = True
        if changed:
            # Loaded objects stay, so exclude them from garbage collection, which would take over a second.
            gc.freeze()

    def close(self) -> None:
        """Accept no more requests, and load no more graphs."""
        self._closing = True

    def wait_idle(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds until no graph is in use; return whether none is."""
        with self._changed:
            return self._changed.wait_for(lambda: not any(loaded.uses for loaded in self._all()), timeout)

    def finalize(self) -> None:
        """Finalize all graphs, including those still in use."""
        for loaded in self._all():
            if graph := self._take(loaded):
                graph.finalize()

    def _all(self) -> list[LoadedGraph]:
        return [*self._dropped, *(servable.loaded for servable in self._servables.values() if servable.loaded)]

    def _find(self, name: str) -> _Servable:
        servable = self._servables.get(name)
        if servable is None:
            raise ModelNotFound
        return servable

    def _loaded(self, servable: _Servable) -> LoadedGraph:
        if servable.state is GraphState.RETIRED:
            raise ModelRetired
        if servable.loaded is None or self._closing:
            raise ModelNotAvailable
        return servable.loaded

    def _needs_load(self, entry: GraphEntry) -> bool:
        servable = self._servables.get(entry.name)
        if servable is None or servable.state is GraphState.RETIRED or servable.entry != entry:
            return True
        return servable.text != _read(entry.graph_path) and servable.text != _read_settled(entry.graph_path)

    def _load(self, entry: GraphEntry) -> None:
        """Load a graph. An existing graph of this name is dropped first, so that memory need not hold both."""
        servable = self._servables.get(entry.name)
        if servable:
            _log.info("graph %s is being reloaded", entry.name)
            self._drop(servable, GraphState.RELOADING)
        else:
            servable = _Servable(entry)
            self._metrics.add_graph(entry.name)
        servable.entry, servable.text = entry, _read(entry.graph_path)
        try:
            loaded, state = LoadedGraph(load_graph(entry)), GraphState.AVAILABLE
        except GraphLoadError as error:
            _log.error("graph %s is not available: %s", entry.name, error)
            loaded, state = None, GraphState.FAILED
        with self._changed:
            servable.loaded, servable.state = loaded, state
            self._servables = self._servables | {entry.name: servable}
            self._changed.notify_all()
        if loaded:
            _log.info("graph %s is ready", entry.name)

    def _retire(self, name: str, servable: _Servable) -> None:
        _log.info("graph %s is retired", name)
        self._drop(servable, GraphState.RETIRED)

    def _drop(self, servable: _Servable, state: GraphState) -> None:
        """Accept no more requests for the graph, and finalize it once the last one has ended."""
        with self._changed:
            loaded, servable.loaded, servable.state = servable.loaded, None, state
            if loaded is None:
                return
            loaded.dropped = True
            self._dropped.add(loaded)
            over = not loaded.uses
        if over:
            self._finalize(loaded)

    def _finalize(self, loaded: LoadedGraph) -> None:
        graph = self._take(loaded)
        if graph is None:
            return
        graph.finalize()
        _log.info("the previous graph %s is finalized", graph.name)
        del graph
        # Its nodes may be in reference cycles, which gc.freeze excluded from collection.
        gc.unfreeze()
        gc.collect()

    def _take(self, loaded: LoadedGraph) -> Graph | None:
        """Return the graph for finalization, or None if another caller finalizes it."""
        with self._changed:
            self._dropped.discard(loaded)
            return loaded.take()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (OSError, ValueError):  # ValueError: an impossible path
        return None


def _read_settled(path: Path) -> bytes | None:
    """Read the file once it is no longer being written; None if there is none."""
    content = _read(path)
    for _ in range(_ATTEMPTS):
        time.sleep(_PAUSE)
        previous, content = content, _read(path)
        if content == previous:
            break
    return content
