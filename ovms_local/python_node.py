"""A Python node: its OvmsPythonModel object, and its run within one instance of the graph."""

import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from ovms_local import pyovms
from ovms_local.errors import describe
from ovms_local.graph import NodeBusy, Packet, Tick
from ovms_local.graph_config import LOOPBACK, NodeConfig

_log = logging.getLogger(__name__)
_END: list[Any] = []  # a sentinel, compared by identity


class NodeLoadError(Exception):
    """A node can't be created; the message says why."""


class PythonNode:
    """One OvmsPythonModel object, shared by all instances of its graph and called from several threads at once."""

    def __init__(self, config: NodeConfig, base_path: Path) -> None:
        """Import the handler, create its OvmsPythonModel and initialize it.

        Raises:
            NodeLoadError: no such file, no such class, no `execute`, a name conflict with another module, or an
                exception in the handler.
        """
        self.config = config
        handler = base_path / config.handler_path
        try:
            self.model = _model_class(handler)()
            self._initialize(base_path)
        except NodeLoadError:
            raise
        except BaseException as error:  # such as SystemExit, or a panic in a Rust library
            _log.debug("traceback of node %s", config.name, exc_info=True)
            raise NodeLoadError(f"{handler} failed: {describe(error)}") from error

    def open(self) -> "PythonNodeRun":
        """Start the node for one instance of its graph."""
        return PythonNodeRun(self)

    def finalize(self) -> None:
        """Call the model's `finalize`, if it has one; an exception in it is logged and ignored."""
        try:
            if hasattr(self.model, "finalize"):
                self.model.finalize()
        except BaseException as error:
            _log.error("node %s: finalize failed: %s", self.config.name, describe(error))

    def _initialize(self, base_path: Path) -> None:
        if not hasattr(self.model, "initialize"):
            return
        arguments = {
            "node_name": self.config.name,
            "input_names": list(self.config.input_names),
            "output_names": list(self.config.output_names),
            # It ends in a slash if handler_path is a bare file name; pathlib would strip the slash.
            "base_path": os.path.join(base_path, os.path.dirname(self.config.handler_path)),  # noqa: PTH118, PTH120
        }
        try:
            self.model.initialize(arguments)
        except BaseException:
            self.finalize()
            raise


class PythonNodeRun:
    """A node within one graph instance, with its generator while one is running.

    As in the real server, a tick outputs the current set and then lets the generator compute the next one, and outputs
    leave only at the end of the tick. So each set leaves once the next one has been computed, and the last set once the
    generator has returned.
    """

    __slots__ = ("_generator", "_loopback", "_model", "_outputs", "_set", "_timestamp")

    def __init__(self, node: PythonNode) -> None:
        self._model = node.model
        names = {stream.tag: stream.name for stream in node.config.outputs}
        self._loopback = names.pop(LOOPBACK, "")
        self._outputs = tuple(names.values())
        self._generator: Iterator | None = None
        self._set: Iterable[Any] = _END
        self._timestamp = 0

    def process(self, timestamp: int, tensors: list[pyovms.Tensor]) -> list[Packet | Tick]:
        """Call `execute`, or continue its generator.

        Raises:
            NodeBusy: there are tensors, but the generator for earlier ones is still running.
            TypeError, ValueError: the model's result is not a list of its outputs. The model may raise any error.
        """
        if self._generator is None:
            self._timestamp = timestamp
            result = self._model.execute(tensors)
            if isinstance(result, list):
                return self._packets(result)
            self._generator = self._start(result)
        elif tensors:
            raise NodeBusy
        if self._set is _END:
            self._generator = None
            return []
        packets = self._packets(self._set)
        self._timestamp += 1
        packets.append(Tick(self._loopback, self._timestamp))
        self._set = next(self._generator, _END)
        return packets

    def close(self) -> None:
        """Close the generator, if one is running, so that its `finally` blocks run."""
        generator, self._generator = self._generator, None
        close = getattr(generator, "close", None)
        if close:
            close()

    def _start(self, result: object) -> Iterator[Any]:
        if not isinstance(result, Iterator):
            raise TypeError(f"execute must return a list or be a generator, got {type(result).__name__}")
        if not self._loopback:
            raise ValueError("execute yielded, but LOOPBACK is not defined in the node")
        self._generator = result  # set first, so that it is closed if its first step fails
        self._set = next(result, _END)
        if self._set is _END:
            raise ValueError("execute is a generator that yielded nothing")
        return result

    def _packets(self, tensors: Iterable[Any]) -> list[Packet | Tick]:
        """Return the packets for these tensors, ordered by tag."""
        packets: dict[str, Packet | Tick] = {}
        for tensor in tensors:
            if not isinstance(tensor, pyovms.Tensor):
                raise TypeError(f"outputs must be Tensors, got {type(tensor).__name__}")
            name = tensor.name
            if name not in self._outputs:
                raise ValueError(f"{name!r} is not an output of the node")
            if name in packets:
                raise ValueError(f"the output {name!r} was given twice at one timestamp")
            packets[name] = Packet(name, self._timestamp, tensor)
        return [packets[name] for name in self._outputs if name in packets]


def _model_class(handler: Path) -> type[Any]:
    if not handler.is_file():
        raise NodeLoadError(f"the handler {handler} does not exist")
    module = _import(handler)
    if not hasattr(module, "OvmsPythonModel"):
        raise NodeLoadError(f"{handler} has no class OvmsPythonModel")
    if not callable(getattr(module.OvmsPythonModel, "execute", None)):
        raise NodeLoadError(f"OvmsPythonModel in {handler} has no method execute")
    model_class: type[Any] = module.OvmsPythonModel
    return model_class


def _import(handler: Path) -> ModuleType:
    """Import like the server: append the folder to sys.path, and find the file by its bare name."""
    sys.modules["pyovms"] = pyovms
    folder = str(handler.parent.resolve())
    if folder not in sys.path:
        sys.path.append(folder)
    importlib.invalidate_caches()
    found = importlib.util.find_spec(handler.stem)
    if found is None:
        raise NodeLoadError(f"the handler {handler} can't be imported: its name must end in .py")
    if not (found.has_location and found.origin and Path(found.origin).samefile(handler)):
        raise NodeLoadError(
            f"the handler {handler} can't be imported: the name {handler.stem!r} is taken by {found.origin}; "
            "handlers in one process need different names"
        )
    return importlib.import_module(handler.stem)
