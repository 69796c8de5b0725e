"""Converts between KServe's protobuf messages and the data plane's values."""

from collections.abc import Iterator

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from ovms_local.errors import InvalidRequest
from ovms_local.infer_request import TIMESTAMP_PARAMETER, InferRequest, Input, InputTensor
from ovms_local.infer_response import VERSION, InferResponse
from ovms_local.kserve import PLATFORM, ModelMetadata
from ovms_local.packing import element_count, pack_bytes

# Datatype -> the field of InferTensorContents with its elements, and the tensor's element type.
_CONTENTS = {
    "BOOL": ("bool_contents", np.bool_), "INT8": ("int_contents", np.int8), "INT16": ("int_contents", np.int16),
    "INT32": ("int_contents", np.int32), "INT64": ("int64_contents", np.int64), "UINT8": ("uint_contents", np.uint8),
    "UINT16": ("uint_contents", np.uint16), "UINT32": ("uint_contents", np.uint32),
    "UINT64": ("uint64_contents", np.uint64), "FP32": ("fp32_contents", np.float32),
    "FP64": ("fp64_contents", np.float64),
}  # fmt: skip
_PARAMETERS = {"string_param", "int64_param", "bool_param"}


def decode_request(message: pb.ModelInferRequest) -> InferRequest:
    """Decode a request. Its inputs are decoded when they are read, which may raise InvalidRequest."""
    parameters = {name: _parameter(value) for name, value in message.parameters.items()} if message.parameters else {}
    return InferRequest(message.model_name, _inputs(message), message.id, message.model_version, parameters)


def encode_response(response: InferResponse) -> pb.ModelInferResponse:
    """Encode a response, with the data in raw_output_contents and the timestamp as a parameter."""
    message = pb.ModelInferResponse(model_name=response.model_name, model_version=VERSION, id=response.id)
    message.parameters[TIMESTAMP_PARAMETER].int64_param = response.timestamp
    for output in response.outputs:
        message.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        message.raw_output_contents.append(output.data)
    return message


def encode_stream_response(output: InferResponse | str) -> pb.ModelStreamInferResponse:
    """Encode a response or an error message of a stream."""
    if isinstance(output, str):
        return pb.ModelStreamInferResponse(error_message=output)
    return pb.ModelStreamInferResponse(infer_response=encode_response(output))


def encode_metadata(metadata: ModelMetadata) -> pb.ModelMetadataResponse:
    """Encode a graph's metadata; its streams have no datatypes or shapes."""
    message = pb.ModelMetadataResponse(name=metadata.name, versions=[VERSION], platform=PLATFORM)
    for name in metadata.inputs:
        message.inputs.add(name=name, datatype="INVALID")
    for name in metadata.outputs:
        message.outputs.add(name=name, datatype="INVALID")
    return message


def _parameter(parameter: pb.InferParameter) -> str | int | bool | None:
    choice = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, choice) if choice in _PARAMETERS else None


def _inputs(message: pb.ModelInferRequest) -> Iterator[Input]:
    raw = message.raw_input_contents
    if not raw:
        yield from map(_TypedInput, message.inputs)
        return
    if len(raw) != len(message.inputs):
        raise _both_contents(
            f"Size of raw_input_contents: {len(raw)} is different than number of inputs: {len(message.inputs)}"
        )
    for tensor in message.inputs:
        if tensor.HasField("contents"):
            raise _both_contents(f"Detected buffer in InferInputTensor contents for input: {tensor.name}")
    for tensor, data in zip(message.inputs, raw, strict=True):
        yield InputTensor(tensor.name, tensor.datatype, tuple(tensor.shape), data)


def _both_contents(details: str) -> InvalidRequest:
    return InvalidRequest(
        "Passing buffers both in ModelInferRequest::InferInputTensor::contents and in "
        f"ModelInferRequest::raw_input_contents is not allowed - {details}"
    )


class _TypedInput:
    """An input with typed contents, which are converted to bytes when the data is read."""

    __slots__ = ("_tensor", "datatype", "name", "shape")

    def __init__(self, tensor: pb.ModelInferRequest.InferInputTensor) -> None:
        self._tensor = tensor
        self.name: str = tensor.name
        self.datatype: str = tensor.datatype
        self.shape: tuple[int, ...] = tuple(tensor.shape)

    @property
    def data(self) -> bytes:
        tensor = self._tensor
        if tensor.datatype == "BYTES":
            return pack_bytes(tensor.contents.bytes_contents)
        if tensor.datatype not in _CONTENTS:
            raise InvalidRequest(
                "Invalid input precision - Provided datatype is invalid, custom datatypes are allowed only when "
                f"raw_input_contents is used; input name: {tensor.name}, datatype: {tensor.datatype}"
            )
        field, dtype = _CONTENTS[tensor.datatype]
        values = getattr(tensor.contents, field)
        expected = element_count(self.shape)
        if len(values) != expected:
            raise InvalidRequest(
                f"Invalid number of values in tensor proto container - Expected: {expected} values; "
                f"Actual: {len(values)} values; input name: {tensor.name}"
            )
        if not values:
            raise InvalidRequest(
                "Invalid content size of tensor proto - Input does not have proper size of input tensor contents "
                f"field; input name: {tensor.name}: a shape with a zero needs raw_input_contents"
            )
        # Convert through the field's own type, because elements too large for the tensor's type wrap.
        wide = {"int_contents": np.int32, "uint_contents": np.uint32}.get(field, dtype)
        return np.fromiter(values, wide, len(values)).astype(dtype).tobytes()
