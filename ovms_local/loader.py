"""From a graph's entry in the configuration to the loaded graph."""

from ovms_local.graph import Graph
from ovms_local.graph_config import GraphConfigError, read_graph_config
from ovms_local.python_node import NodeLoadError, PythonNode
from ovms_local.server_config import GraphEntry


class GraphLoadError(Exception):
    """A graph that can't be loaded; the text says why."""


def load_graph(entry: GraphEntry) -> Graph:
    """Read the graph and make its nodes; where one fails, those made before it are finalized.

    Raises:
        GraphLoadError
    """
    nodes: list[PythonNode] = []
    try:
        config = read_graph_config(entry.graph_path)
        for node_config in config.nodes:
            nodes.append(PythonNode(node_config, entry.base_path))  # noqa: PERF401 - an error leaves what was made till then
    except (GraphConfigError, NodeLoadError) as error:
        for node in nodes:
            node.finalize()
        raise GraphLoadError(str(error)) from error
    return Graph(entry.name, config, tuple(nodes))
