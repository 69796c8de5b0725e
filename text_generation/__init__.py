"""Chat models in Python nodes of OpenVINO Model Server: prepare models and generate text."""

import os
import tempfile
from pathlib import Path

try:
    Path.home()
except RuntimeError:  # no HOME and an unknown user id, as in some clusters: importing OpenVINO would fail
    os.environ["HOME"] = tempfile.gettempdir()
