"""Chat models in OpenVINO Model Server's Python nodes: prepare a model, turn prompts into text pieces."""

import os
import tempfile
from pathlib import Path

try:
    Path.home()
except RuntimeError:  # no HOME and a user id without a name, as in some clusters: importing OpenVINO fails
    os.environ["HOME"] = tempfile.gettempdir()
