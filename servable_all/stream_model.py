"""servable_stream's node under another module name, because in one server process `model` is servable_unary's."""

import importlib.util
import sys
from pathlib import Path

_folder = Path(__file__).resolve().parent.parent / "servable_stream"
sys.path.append(str(_folder))  # where its module `config` is
_spec = importlib.util.spec_from_file_location("servable_stream_model", _folder / "model.py")
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
OvmsPythonModel = _module.OvmsPythonModel
