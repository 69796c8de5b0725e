"""Building blocks for a test's own servables, and the events they record."""

import os
from pathlib import Path

NODE = """
input_stream: "OVMS_PY_TENSOR:in"
output_stream: "OVMS_PY_TENSOR:out"
node {{
  name: "node"
  calculator: "PythonExecutorCalculator"
  input_side_packet: "PYTHON_NODE_RESOURCES:py"
  input_stream: "IN:in"
  output_stream: "OUT:out"
  node_options: {{ [type.googleapis.com / mediapipe.PythonExecutorCalculatorOptions]: {{ handler_path: "{handler}" }} }}
}}
"""


class Events:
    """The events recorded by nodes, line by line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        # Open for reading and writing, so that neither the nodes nor the reader has to wait for the other end.
        self._pipe = os.fdopen(os.open(path, os.O_RDWR), "rb", buffering=0)
        self._rest = b""

    def wait_for(self, text: str) -> list[str]:
        """Read up to a line with this text; return those lines. (A test that hangs here fails with pytest-timeout.)"""
        lines = []
        while True:
            while b"\n" in self._rest:
                line, _, self._rest = self._rest.partition(b"\n")
                lines.append(line.decode())
                if text in lines[-1]:
                    return lines
            self._rest += os.read(self._pipe.fileno(), 65536)
