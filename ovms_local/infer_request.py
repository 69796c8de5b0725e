"""A KServe request as the data plane sees it, independent of the transport, and the checks for malformed requests."""

import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ovms_local import pyovms
from ovms_local.errors import FailedPrecondition, InvalidRequest, MalformedTimestamp, UnsupportedParameter
from ovms_local.graph import MAX_TIMESTAMP, MIN_TIMESTAMP
from ovms_local.packing import MAX_ELEMENTS, element_count

TIMESTAMP_PARAMETER = "OVMS_MP_TIMESTAMP"
# The name of the side packet with which a graph's nodes get their Python resources.
_RESERVED_PARAMETER = "py"
_VERSION = re.compile(r"0|-?[1-9][0-9]{0,18}", re.ASCII)


class Input(Protocol):
    """An input of a request.

    BYTES elements are packed in `data`, each after its length as 4 little-endian bytes. A transport may delay decoding
    until `data` is read, which then raises InvalidRequest if decoding fails.
    """

    @property
    def name(self) -> str: ...
    @property
    def datatype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def data(self) -> bytes | memoryview: ...


@dataclass(frozen=True, slots=True)
class InputTensor:
    """An input with its data as bytes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request to a graph.

    `inputs` can be iterated over once, and any of them may raise InvalidRequest. None stands for a parameter of a type
    that KServe defines but the server does not support.
    """

    model_name: str
    inputs: Iterable[Input]
    id: str = ""
    model_version: str = ""
    parameters: Mapping[str, str | int | bool | None] = field(default_factory=dict)

    def check_version(self) -> None:
        """Check the version, which may be any number, since a graph has no versions.

        Raises:
            InvalidRequest: the version is not a number.
        """
        version = self.model_version
        if version and not (_VERSION.fullmatch(version) and -(2**63) <= int(version) < 2**63):
            raise InvalidRequest("invalid model version format in request")

    def check_parameters(self, pooled: bool) -> None:
        """Check the parameters, which become side packets of the graph, invisible to Python nodes.

        Args:
            pooled: whether the graph's instances are started before any request arrives.

        Raises:
            FailedPrecondition: a reserved name, or any parameter for a pool of graphs.
            UnsupportedParameter: a type that side packets do not support.
        """
        for name, value in self.parameters.items():
            if name == TIMESTAMP_PARAMETER:
                continue
            if pooled:
                raise FailedPrecondition("Input side packets are not supported for graphs with queue enabled")
            if name == _RESERVED_PARAMETER:
                raise FailedPrecondition(
                    f"Incoming input side packet: {name} is special reserved name and cannot be used"
                )
            if value is None:
                raise UnsupportedParameter

    def timestamp(self) -> int:
        """Return the timestamp for the request's packets: the one it sets, else the clock in microseconds.

        Raises:
            MalformedTimestamp: the request's own is not an integer or is outside MediaPipe's range.
        """
        if TIMESTAMP_PARAMETER not in self.parameters:
            return time.time_ns() // 1000
        timestamp = self.parameters[TIMESTAMP_PARAMETER]
        if type(timestamp) is not int:
            raise MalformedTimestamp(
                f"Invalid timestamp format in request parameter {TIMESTAMP_PARAMETER}. Should be int64"
            )
        if not MIN_TIMESTAMP <= timestamp <= MAX_TIMESTAMP:
            raise MalformedTimestamp(f"{timestamp} is out of range")
        return timestamp

    def tensors(self, names: Collection[str]) -> Iterator[pyovms.Tensor]:
        """Yield the tensors for a graph whose inputs have these names.

        Raises:
            InvalidRequest: the graph has no such input, or the data does not match shape and datatype.
        """
        for tensor in self.inputs:
            if tensor.name not in names:
                raise InvalidRequest(f"Unexpected input - {tensor.name} is unexpected")
            yield _tensor(tensor)


def _tensor(tensor: Input) -> pyovms.Tensor:
    shape = tensor.shape
    if any(dimension < 0 for dimension in shape):
        raise InvalidRequest(
            "Invalid input shape - Negative dimension size is not acceptable: "
            f"({','.join(map(str, shape))}); input name: {tensor.name}"
        )
    item_size = pyovms.item_size(tensor.datatype)
    # A dimension of 0 must not hide that the others are too large for any buffer.
    if (item_size or 1) * element_count(max(dimension, 1) for dimension in shape) >= MAX_ELEMENTS:
        raise InvalidRequest(
            "Invalid content size of tensor proto - Provided shape and datatype declare too large buffer."
        )
    data = tensor.data
    if item_size is not None:
        expected = item_size * element_count(shape)
        if len(data) != expected:
            raise InvalidRequest(
                "Invalid content size of tensor proto - Invalid Python tensor buffer size. "
                f"Actual: {len(data)}; Expected: {expected}"
            )
    try:
        return pyovms.tensor_from_request(tensor.name, tensor.datatype, shape, data)
    except ValueError as error:
        raise InvalidRequest(f"Invalid input shape - {error}; input name: {tensor.name}") from error
