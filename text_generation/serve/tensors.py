"""Converts KServe tensors to Python values and back.

Both servers pass BYTES data to a servable in KServe's packed form: each element is its length as 4 little-endian bytes,
followed by its bytes.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Protocol

from text_generation.errors import RequestError
from text_generation.wording import counted

_LENGTH = struct.Struct("<I")


class Tensor(Protocol):
    """The interface of pyovms.Tensor, the type of a servable's inputs."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    data: memoryview


def input_named(name: str, inputs: Sequence[Tensor]) -> Tensor:
    """Return the input with this name; the server orders inputs by the tags of the node's streams."""
    return next(tensor for tensor in inputs if tensor.name == name)


def unpack_texts(tensor: Tensor) -> list[str]:
    """Return the UTF-8 texts of a BYTES tensor; RequestError if it is anything else."""
    name, data, shape = tensor.name, tensor.data, tensor.shape
    if tensor.datatype != "BYTES":
        problem = f"{name} has another datatype than BYTES"
        raise RequestError(f"{problem}: {tensor.datatype}", problem)  # a datatype may be any text
    texts: list[str] = []
    offset = 0
    while offset < len(data):
        start = offset + _LENGTH.size
        if start > len(data):
            raise RequestError(f"{name} is truncated: element {len(texts) + 1} lacks its 4-byte length")
        (length,) = _LENGTH.unpack_from(data, offset)
        offset = start + length
        if offset > len(data):
            raise RequestError(
                f"{name} is truncated: element {len(texts) + 1} should have {counted(length, 'byte')}, "
                f"but has {len(data) - start}"
            )
        try:
            texts.append(str(data[start:offset], "utf-8"))
        except UnicodeDecodeError as error:
            raise RequestError(f"element {len(texts) + 1} of {name} is not UTF-8: {error.reason}") from None
    if math.prod(shape) != len(texts):
        raise RequestError(f"{name} has shape {list(shape)}, but its data holds {counted(len(texts), 'element')}")
    return texts


def unpack_text(tensor: Tensor) -> str:
    """Return the only text of a BYTES tensor; RequestError if it does not have exactly one."""
    texts = unpack_texts(tensor)
    if len(texts) != 1:
        raise RequestError(f"{tensor.name} has {len(texts)} elements, but must have exactly one")
    return texts[0]


def pack_texts(texts: Iterable[str]) -> bytes:
    """Return the data of a BYTES tensor with these texts, UTF-8 encoded."""
    parts: list[bytes] = []
    for text in texts:
        encoded = text.encode()
        parts += (_LENGTH.pack(len(encoded)), encoded)
    return b"".join(parts)
