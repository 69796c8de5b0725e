"""A KServe response as the data plane knows it, whatever transport it goes by."""

from dataclasses import dataclass
from typing import Self

from ovms_local import pyovms

# Graphs have no versions: all of them are this one.
VERSION = "1"


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """An output of a response, with its data as it was when it was read."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def read(cls, tensor: pyovms.Tensor) -> Self:
        """Copy a tensor, whose node may fill its buffer anew."""
        return cls(tensor.name, tensor.datatype, tensor.shape, bytes(tensor))


@dataclass(frozen=True, slots=True)
class InferResponse:
    """The response to a request; one of a stream has one output and no id."""

    model_name: str
    id: str
    timestamp: int
    outputs: tuple[OutputTensor, ...]
