"""The size of tensors, and KServe's layout of BYTES: each element follows its length as 4 little-endian bytes."""

import struct
from collections.abc import Iterable

import numpy as np
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

# More than any buffer holds.
MAX_ELEMENTS = 2**63


def element_count(shape: Iterable[int]) -> int:
    """Return the product of the dimensions, limited to MAX_ELEMENTS on either side of 0.

    A client may send a hundred thousand dimensions, whose exact product takes a minute.
    """
    count = 1
    for dimension in shape:
        count = max(-MAX_ELEMENTS, min(count * dimension, MAX_ELEMENTS))
    return count


def pack_bytes(elements: Iterable[bytes]) -> bytes:
    """Pack the elements one after another."""
    array = np.array(list(elements), np.object_)
    return serialize_byte_tensor(array).item() if array.size else b""


def unpack_bytes(data: bytes) -> list[bytes]:
    """Return the elements of packed data.

    Raises:
        ValueError: the data ends within an element or its length.
    """
    try:
        elements: list[bytes] = deserialize_bytes_tensor(data).tolist()
    except struct.error as error:
        raise ValueError(f"BYTES data is truncated: {error}") from None
    return elements
