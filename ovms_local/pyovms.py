"""The module `pyovms` for Python nodes, with a class Tensor like the one built into OpenVINO Model Server."""

import ctypes
import operator
import sys
from collections.abc import Iterable, Sequence
from pickle import PickleBuffer
from typing import Any

import numpy as np

# As in the real module, where numpy's int64, which has format `l` on Linux, becomes INT32.
_FORMAT_TO_DATATYPE = {
    "?": "BOOL", "B": "UINT8", "H": "UINT16", "I": "UINT32", "Q": "UINT64", "b": "INT8", "h": "INT16", "i": "INT32",
    "q": "INT64", "e": "FP16", "f": "FP32", "d": "FP64", "l": "INT32", "L": "UINT32",
}  # fmt: skip
_DATATYPE_TO_FORMAT = {datatype: format for format, datatype in _FORMAT_TO_DATATYPE.items() if format not in "lL"}
_SSIZE = range(-(2**63), 2**63)
# In CPython 3.11 on 64-bit systems: PyTypeObject in Include/cpython/object.h, the flag in Include/object.h.
_OFFSET_OF_TP_FLAGS, _PY_TPFLAGS_BASETYPE = 168, 1 << 10


def item_size(datatype: str) -> int | None:
    """Return the bytes per element, or None for BYTES, BF16 and custom datatypes, whose data is opaque."""
    format = _DATATYPE_TO_FORMAT.get(datatype)
    return None if format is None else np.dtype(format).itemsize


def _check_shape(shape: Iterable) -> tuple[int, ...]:
    if not isinstance(shape, (Sequence, np.ndarray)) or isinstance(shape, (str, bytes, bytearray, memoryview)):
        raise TypeError(f"Tensor: shape must be a sequence of integers, not {type(shape).__name__}")
    try:
        dimensions = tuple(operator.index(dimension) for dimension in shape)
    except TypeError:
        raise TypeError("Tensor: shape must be a sequence of integers") from None
    if any(dimension not in _SSIZE for dimension in dimensions):
        raise TypeError("Tensor: a dimension of shape is too large")
    return dimensions


class _Attributes:
    """The read-only attributes of a Tensor."""

    __slots__ = ()
    _name: str
    _view: memoryview
    _shape: tuple[int, ...]
    _datatype: str

    @property
    def name(self) -> str:
        """Name of the graph's stream that carries the tensor."""
        return self._name

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape reported to the next node and the client; the buffer's own unless overridden."""
        return self._shape

    @property
    def datatype(self) -> str:
        """KServe datatype, or the buffer's format if KServe has no datatype for it."""
        return self._datatype

    @property
    def data(self) -> memoryview:
        """The buffer, read-only, with its own shape, strides and format."""
        return memoryview(self._view)

    @property
    def size(self) -> int:
        """Size of the buffer in bytes."""
        return self._view.nbytes


def _attributes(
    name: str, view: memoryview, shape: Iterable[Any] | None, datatype: str | None
) -> tuple[str, memoryview, tuple[int, ...], str]:
    """Check a Tensor's arguments, and return name, view, shape and datatype."""
    if not isinstance(name, str):
        raise TypeError(f"Tensor: name must be a str, not {type(name).__name__}")
    if datatype is not None and not isinstance(datatype, str):
        raise TypeError(f"Tensor: datatype must be a str, not {type(datatype).__name__}")
    try:
        f"{name}{datatype}".encode()
    except UnicodeEncodeError:
        raise TypeError("Tensor: name and datatype must be text that UTF-8 can encode") from None
    dimensions = view.shape or () if shape is None else _check_shape(shape)
    return name, view, dimensions, _FORMAT_TO_DATATYPE.get(view.format, view.format) if datatype is None else datatype


_DOCUMENTATION = """A named tensor over any object with the buffer protocol, without a copy.

    Args:
        name: name of the stream the tensor goes to.
        buffer: the object that holds the data; later changes to it are visible.
        shape, datatype: override the buffer's own, without a check against the data.

    Raises:
        TypeError: `buffer` lacks the buffer protocol, or another argument has a wrong type.
    """

if sys.version_info >= (3, 12):
    from collections.abc import Buffer

    class Tensor(_Attributes):
        __doc__ = _DOCUMENTATION
        __slots__ = ("_datatype", "_name", "_shape", "_view")

        def __init__(
            self, name: str, buffer: Buffer, shape: Iterable[Any] | None = None, datatype: str | None = None
        ) -> None:
            view = memoryview(buffer).toreadonly()
            self._name, self._view, self._shape, self._datatype = _attributes(name, view, shape, datatype)

        def __buffer__(self, flags: int) -> memoryview:
            return memoryview(self._view)

else:
    # Before 3.12, only classes written in C can have the buffer protocol. PickleBuffer is one; it exposes the buffer it
    # wraps and adds next to nothing. Only this flag prevents subclasses of it.
    _flags = ctypes.c_ulong.from_address(id(PickleBuffer) + _OFFSET_OF_TP_FLAGS)
    assert _flags.value == PickleBuffer.__flags__
    _flags.value |= _PY_TPFLAGS_BASETYPE

    class Tensor(_Attributes, PickleBuffer):
        __doc__ = _DOCUMENTATION
        __slots__ = ("_datatype", "_name", "_reference", "_shape", "_view")
        raw = release = property()  # hide what it adds

        def __new__(cls, name, buffer, shape=None, datatype=None) -> "Tensor":
            view = memoryview(buffer).toreadonly()
            tensor = super().__new__(cls, view)
            # Collecting a garbage cycle with both would crash the interpreter, which clears the memoryview first. The
            # collector does not look into arrays, so a reference from one keeps the memoryview alive with the Tensor.
            tensor._reference = np.array(None)
            tensor._reference[()] = view
            tensor._name, tensor._view, tensor._shape, tensor._datatype = _attributes(name, view, shape, datatype)
            return tensor

    _flags.value &= ~_PY_TPFLAGS_BASETYPE


def tensor_from_request(name: str, datatype: str, shape: tuple[int, ...], data: bytes | memoryview) -> Tensor:
    """Create the tensor that a node gets for an input of a request.

    A known datatype gets its own format and the request's shape. BYTES, BF16 and custom datatypes get a flat buffer of
    bytes, with shape and datatype as given in the request.

    Raises:
        ValueError: the size of a known datatype's data does not match the shape.
    """
    format = _DATATYPE_TO_FORMAT.get(datatype)
    if format is None:
        return Tensor(name, memoryview(data), shape, datatype)
    if not len(data):
        return Tensor(name, np.empty(shape, np.dtype(format)))
    # This copies only unaligned data, for which numpy would otherwise use another format (`=i`).
    return Tensor(name, np.require(np.ndarray(shape, np.dtype(format), data), requirements="A"))
