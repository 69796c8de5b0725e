import pytest

from ovms_local.loader import GraphLoadError, load_graph
from ovms_local.server_config import GraphEntry

HANDLER = """
class OvmsPythonModel:
    def initialize(self, kwargs):
        self.name = kwargs["node_name"]
        print("initialize", self.name)
        if self.name == "b_third":
            raise ValueError("not this one")

    def execute(self, inputs):
        return inputs

    def finalize(self):
        print("finalize", self.name)
"""
NODE = """
node {{
  name: "{name}"
  calculator: "PythonExecutorCalculator"
  input_side_packet: "PYTHON_NODE_RESOURCES:py"
  input_stream: "IN:{input}"
  output_stream: "OUT:{output}"
  node_options: {{
    [type.googleapis.com / mediapipe.PythonExecutorCalculatorOptions]: {{ handler_path: "handler_of_test_loader.py" }}
  }}
}}
"""
STREAMS = 'input_stream: "OVMS_PY_TENSOR_1:in" output_stream: "OVMS_PY_TENSOR_2:out"\n'


def test_where_one_node_fails_those_before_it_are_finalized(tmp_path, capsys):
    (tmp_path / "handler_of_test_loader.py").write_text(HANDLER)
    nodes = [
        ("d_first", "middle", "out"),
        ("c_second", "in", "middle"),
        ("b_third", "in", "x"),
        ("a_fourth", "in", "y"),
    ]
    graph = tmp_path / "graph.pbtxt"
    graph.write_text(STREAMS + "".join(NODE.format(name=name, input=i, output=o) for name, i, o in nodes))
    with pytest.raises(GraphLoadError, match="ValueError: not this one"):
        load_graph(GraphEntry("g", tmp_path, graph))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["initialize d_first", "initialize c_second", "initialize b_third"]
    assert sorted(lines[3:]) == ["finalize b_third", "finalize c_second", "finalize d_first"]
