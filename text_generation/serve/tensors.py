"""KServe tensors to Python values and back. Both servers hand a servable BYTES data in KServe's packed form:
each element is its length as 4 little-endian bytes, then its bytes."""

import math
import struct
from collections.abc import Iterable, Sequence

from text_generation.errors import RequestError

_LENGTH = struct.Struct("<I")


def unpack_texts(name: str, data: memoryview, shape: Sequence[int], datatype: str, max_bytes: int) -> list[str]:
    """The UTF-8 texts of a BYTES tensor called `name`; RequestError where it is anything else.

    `max_bytes` bounds the data, lengths included, before any memory is taken for its texts.
    """
    if datatype != "BYTES":
        raise RequestError(f"{name} has datatype {datatype}, but texts are sent as BYTES")
    if len(data) > max_bytes:
        raise RequestError(
            f"{name} has {len(data)} bytes, more than MAX_PROMPT_TOKENS_PER_REQUEST could ever let in ({max_bytes}): "
            "send fewer or shorter prompts"
        )
    texts = []
    offset = 0
    while offset < len(data):
        start = offset + _LENGTH.size
        if start > len(data):
            raise RequestError(f"{name} is cut off: element {len(texts) + 1} has no 4-byte length before it")
        (length,) = _LENGTH.unpack_from(data, offset)
        offset = start + length
        if offset > len(data):
            left = len(data) - start
            raise RequestError(f"{name} is cut off: element {len(texts) + 1} says {length} bytes, {left} are left")
        try:
            texts.append(str(data[start:offset], "utf-8"))
        except UnicodeDecodeError as error:
            raise RequestError(f"element {len(texts) + 1} of {name} is not UTF-8: {error.reason}") from None
    if math.prod(shape) != len(texts):
        raise RequestError(f"{name} has shape {list(shape)}, but its data holds {len(texts)} elements")
    return texts


def pack_texts(texts: Iterable[str]) -> bytes:
    """The data of a BYTES tensor with these texts, UTF-8 encoded."""
    parts = []
    for text in texts:
        encoded = text.encode()
        parts += (_LENGTH.pack(len(encoded)), encoded)
    return b"".join(parts)
