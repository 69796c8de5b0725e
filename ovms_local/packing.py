"""KServe's layout of BYTES: each element behind its length as 4 little-endian bytes."""

import struct
from collections.abc import Iterable

_LENGTH = struct.Struct("<I")


def pack_bytes(elements: Iterable[bytes]) -> bytes:
    """The elements one behind the other."""
    return b"".join(part for element in elements for part in (_LENGTH.pack(len(element)), element))


def unpack_bytes(data: bytes) -> list[bytes]:
    """The elements of packed data.

    Raises:
        ValueError: the data ends within an element.
    """
    elements, position = [], 0
    while position < len(data):
        start = position + _LENGTH.size
        if start > len(data):
            raise ValueError("BYTES data ends within a length")
        position = start + _LENGTH.unpack_from(data, start - _LENGTH.size)[0]
        if position > len(data):
            raise ValueError("BYTES data ends within an element")
        elements.append(data[start:position])
    return elements
