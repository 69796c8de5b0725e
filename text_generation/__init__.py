"""Chat models in Python nodes of OpenVINO Model Server: prepare models and generate text."""

import os
import tempfile
from pathlib import Path

from text_generation.imports import hide

# OpenVINO reports its use to Google Analytics, even an import of it, unless this optional package is missing.
hide("openvino_telemetry")

try:
    Path.home()
except RuntimeError:  # no HOME and an unknown user id, as in some clusters: importing OpenVINO would fail
    os.environ["HOME"] = tempfile.gettempdir()
