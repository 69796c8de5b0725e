"""Loads a graph from its entry in the configuration."""

from ovms_local.graph import Graph
from ovms_local.graph_config import GraphConfigError, read_graph_config
from ovms_local.python_node import NodeLoadError, PythonNode
from ovms_local.server_config import GraphEntry


class GraphLoadError(Exception):
    """A graph can't be loaded; the message says why."""


def load_graph(entry: GraphEntry) -> Graph:
    """Read the graph and create its nodes; if one fails, those created before it are finalized.

    Raises:
        GraphLoadError
    """
    nodes: list[PythonNode] = []
    try:
        config = read_graph_config(entry.graph_path)
        for node_config in config.nodes:
            nodes.append(PythonNode(node_config, entry.base_path))  # noqa: PERF401 - keeps the nodes created before an error
    except (GraphConfigError, NodeLoadError) as error:
        for node in nodes:
            node.finalize()
        raise GraphLoadError(str(error)) from error
    return Graph(entry.name, config, tuple(nodes))
