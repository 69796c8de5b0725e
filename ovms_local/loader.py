"""From a graph's entry in the configuration to the loaded graph."""

import logging

from ovms_local.graph import Graph
from ovms_local.graph_config import GraphConfigError, read_graph_config
from ovms_local.python_node import NodeLoadError, PythonNode
from ovms_local.server_config import GraphEntry

_log = logging.getLogger(__name__)


class GraphLoadError(Exception):
    """A graph that can't be loaded; the text says why."""


def load_graph(entry: GraphEntry) -> Graph:
    """Read the graph and make its nodes; where one fails, those made before it are finalized.

    Raises:
        GraphLoadError
    """
    if entry.problem:
        raise GraphLoadError(entry.problem)
    nodes: list[PythonNode] = []
    try:
        config = read_graph_config(entry.graph_path)
        for node in config.nodes:
            nodes.append(PythonNode(node, entry.base_path))  # noqa: PERF401 - what was made must be known on an error
    except (GraphConfigError, NodeLoadError) as error:
        unload_nodes(nodes)
        raise GraphLoadError(str(error)) from error
    return Graph(entry.name, config, tuple(nodes))


def unload_nodes(nodes: list[PythonNode] | tuple[PythonNode, ...]) -> None:
    """Finalize nodes."""
    for node in nodes:
        node.finalize()
