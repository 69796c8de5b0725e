"""A KServe response as the data plane sees it, independent of the transport."""

from dataclasses import dataclass
from typing import Self

from ovms_local import pyovms

# The version reported to clients, since a graph has none.
VERSION = "1"


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """An output of a response, with a copy of its data."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def read(cls, tensor: pyovms.Tensor) -> Self:
        """Copy the tensor's current data, since its node may reuse the buffer later."""
        return cls(tensor.name, tensor.datatype, tensor.shape, bytes(tensor))


@dataclass(frozen=True, slots=True)
class InferResponse:
    """The response to a request; a stream's responses have one output and no id."""

    model_name: str
    id: str
    timestamp: int
    outputs: tuple[OutputTensor, ...]
