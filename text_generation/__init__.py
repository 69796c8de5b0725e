"""Chat models in Python nodes of OpenVINO Model Server: prepare models and generate text."""

import os
import sys
import tempfile
from pathlib import Path

# OpenVINO reports its use to Google Analytics, even an import of it, unless this optional package is missing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # makes Python refuse to import it

try:
    Path.home()
except RuntimeError:  # no HOME and an unknown user id, as in some clusters: importing OpenVINO would fail
    os.environ["HOME"] = tempfile.gettempdir()
