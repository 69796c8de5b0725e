"""A KServe response as the data plane sees it, whatever transport it leaves by."""

from dataclasses import dataclass
from typing import Self

from ovms_local import pyovms

# A graph has no versions; clients are told this one.
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
        """Copy what is in the tensor's buffer now: its node may fill it again later."""
        return cls(tensor.name, tensor.datatype, tensor.shape, bytes(tensor))


@dataclass(frozen=True, slots=True)
class InferResponse:
    """The response to a request; one of a stream has one output and no id."""

    model_name: str
    id: str
    timestamp: int
    outputs: tuple[OutputTensor, ...]
