"""A Python node: the object of class OvmsPythonModel behind it, and what a call of it may give."""

import importlib
import importlib.util
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from ovms_local import pyovms
from ovms_local.errors import describe
from ovms_local.graph_config import LOOPBACK, NodeConfig

_log = logging.getLogger(__name__)


class NodeLoadError(Exception):
    """A node that can't be made; the text says why."""


class PythonNode:
    """One OvmsPythonModel object, shared by all instances of its graph and called from several threads at once."""

    def __init__(self, config: NodeConfig, base_path: Path) -> None:
        """Import the handler, make its OvmsPythonModel and initialize it.

        Raises:
            NodeLoadError: no such file, no such class, no `execute`, another module in the way, or an exception.
        """
        self.config = config
        self._outputs = {stream.name for stream in config.outputs if stream.tag != LOOPBACK}
        self._model = _load(config, base_path / config.handler_path)

    def execute(self, inputs: list[pyovms.Tensor]) -> list[pyovms.Tensor] | Iterator:
        """Call the model: a list of outputs, or an iterator over such lists when the node has LOOPBACK.

        Raises:
            TypeError, ValueError: what came back is no such thing. Also whatever the model raises.
        """
        result = self._model.execute(inputs)
        if isinstance(result, list):
            return self.check_outputs(result)
        if not isinstance(result, Iterator):
            raise TypeError(f"execute must return a list or be a generator, got {type(result).__name__}")
        if not self.config.has_loopback:
            raise ValueError("execute yielded, but LOOPBACK is not defined in the node")
        return result

    def check_outputs(self, outputs: object) -> list[pyovms.Tensor]:
        """A list as it may be returned or yielded.

        Raises:
            TypeError, ValueError: no list, not of Tensors, an unknown output, or one output twice.
        """
        if not isinstance(outputs, list):
            raise TypeError(f"outputs must be a list of Tensors, got {type(outputs).__name__}")
        seen = set()
        for tensor in outputs:
            if not isinstance(tensor, pyovms.Tensor):
                raise TypeError(f"outputs must be Tensors, got {type(tensor).__name__}")
            if tensor.name not in self._outputs:
                raise ValueError(f"{tensor.name!r} is not an output of the node")
            if tensor.name in seen:
                raise ValueError(f"the output {tensor.name!r} was given twice at one timestamp")
            seen.add(tensor.name)
        return outputs

    def finalize(self) -> None:
        """Call the model's `finalize`, if it has one; an exception in it is logged and ignored."""
        try:
            if hasattr(self._model, "finalize"):
                self._model.finalize()
        except BaseException as error:
            _log.error("node %s: finalize failed: %s", self.config.name, describe(error))


def _load(config: NodeConfig, handler: Path) -> object:
    if not handler.is_file():
        raise NodeLoadError(f"the handler {handler} does not exist")
    try:
        module = _import(handler)
        if not hasattr(module, "OvmsPythonModel"):
            raise NodeLoadError(f"{handler} has no class OvmsPythonModel")
        model = module.OvmsPythonModel()
        if not callable(getattr(model, "execute", None)):
            raise NodeLoadError(f"OvmsPythonModel in {handler} has no method execute")
        if hasattr(model, "initialize"):
            model.initialize(
                {
                    "node_name": config.name,
                    "input_names": [stream.name for stream in config.inputs],
                    "output_names": [stream.name for stream in config.outputs],
                    "base_path": str(handler.parent),
                }
            )
    except NodeLoadError:
        raise
    except BaseException as error:  # SystemExit, or a panic of a library written in Rust, say
        _log.debug("traceback of node %s", config.name, exc_info=True)
        raise NodeLoadError(f"{handler} failed: {describe(error)}") from error
    return model


def _import(handler: Path) -> object:
    """Import as the server does: the folder goes to the end of the path, the file is found by its bare name."""
    sys.modules["pyovms"] = pyovms
    folder = str(handler.parent.resolve())
    if folder not in sys.path:
        sys.path.append(folder)
    importlib.invalidate_caches()
    found = importlib.util.find_spec(handler.stem)
    if found is None:
        raise NodeLoadError(f"the handler {handler} can't be imported: its name must end in .py")
    if not (found.has_location and Path(found.origin).samefile(handler)):
        raise NodeLoadError(
            f"the handler {handler} can't be imported: the name {handler.stem!r} is taken by {found.origin}; "
            "handlers served by one process need names of their own"
        )
    return importlib.import_module(handler.stem)
