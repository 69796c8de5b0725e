"""Between KServe's protobuf messages and the data plane's values."""

import math

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from ovms_local.errors import InvalidRequest
from ovms_local.kserve import (
    PLATFORM,
    TIMESTAMP_PARAMETER,
    VERSION,
    InferRequest,
    InferResponse,
    InputTensor,
    ModelMetadata,
)
from ovms_local.packing import pack_bytes

# Datatype -> the field of InferTensorContents with its elements, and what the tensor holds.
_CONTENTS = {
    "BOOL": ("bool_contents", np.bool_), "INT8": ("int_contents", np.int8), "INT16": ("int_contents", np.int16),
    "INT32": ("int_contents", np.int32), "INT64": ("int64_contents", np.int64), "UINT8": ("uint_contents", np.uint8),
    "UINT16": ("uint_contents", np.uint16), "UINT32": ("uint_contents", np.uint32),
    "UINT64": ("uint64_contents", np.uint64), "FP32": ("fp32_contents", np.float32),
    "FP64": ("fp64_contents", np.float64),
}  # fmt: skip


def decode_request(message: pb.ModelInferRequest) -> InferRequest:
    """Raises InvalidRequest where the message contradicts itself."""
    raw = message.raw_input_contents
    if raw:
        if any(tensor.HasField("contents") for tensor in message.inputs):
            raise InvalidRequest("Invalid message structure - both contents and raw_input_contents are used")
        if len(raw) != len(message.inputs):
            raise InvalidRequest(
                f"Invalid message structure - Size of raw_input_contents: {len(raw)} is different than "
                f"number of inputs: {len(message.inputs)}"
            )
        contents = list(raw)
    else:
        contents = [_typed_contents(tensor) for tensor in message.inputs]
    inputs = tuple(
        InputTensor(tensor.name, tensor.datatype, tuple(tensor.shape), data)
        for tensor, data in zip(message.inputs, contents, strict=True)
    )
    return InferRequest(message.model_name, inputs, message.id, _timestamp(message))


def encode_response(response: InferResponse) -> pb.ModelInferResponse:
    """With the data in raw_output_contents and the timestamp among the parameters."""
    message = pb.ModelInferResponse(model_name=response.model_name, id=response.id)
    message.parameters[TIMESTAMP_PARAMETER].int64_param = response.timestamp
    for output in response.outputs:
        message.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        message.raw_output_contents.append(output.data)
    return message


def encode_stream_response(output: InferResponse | str) -> pb.ModelStreamInferResponse:
    """A response, or the message of an error, in a stream."""
    if isinstance(output, str):
        return pb.ModelStreamInferResponse(error_message=output)
    return pb.ModelStreamInferResponse(infer_response=encode_response(output))


def encode_metadata(metadata: ModelMetadata) -> pb.ModelMetadataResponse:
    """A graph's streams say nothing about datatypes and shapes."""
    message = pb.ModelMetadataResponse(name=metadata.name, versions=[VERSION], platform=PLATFORM)
    for name in metadata.inputs:
        message.inputs.add(name=name, datatype="INVALID")
    for name in metadata.outputs:
        message.outputs.add(name=name, datatype="INVALID")
    return message


def _typed_contents(tensor: pb.ModelInferRequest.InferInputTensor) -> bytes:
    if tensor.datatype == "BYTES":
        return pack_bytes(tensor.contents.bytes_contents)
    if tensor.datatype not in _CONTENTS:
        raise InvalidRequest(
            "Invalid input precision - Provided datatype is invalid, custom datatypes are allowed only when "
            f"raw_input_contents is used; input name: {tensor.name}, datatype: {tensor.datatype}"
        )
    field, dtype = _CONTENTS[tensor.datatype]
    values = getattr(tensor.contents, field)
    expected = math.prod(tensor.shape)
    if len(values) != expected and all(dimension >= 0 for dimension in tensor.shape):
        raise InvalidRequest(
            f"Invalid number of values in tensor proto container - Expected: {expected} values; "
            f"Actual: {len(values)} values; input name: {tensor.name}"
        )
    # Through an array of the field's own type, since an element too large for the tensor's type wraps.
    wide = {"int_contents": np.int32, "uint_contents": np.uint32}.get(field, dtype)
    return np.fromiter(values, wide, len(values)).astype(dtype).tobytes()


def _timestamp(message: pb.ModelInferRequest) -> int | None:
    if TIMESTAMP_PARAMETER not in message.parameters:
        return None
    parameter = message.parameters[TIMESTAMP_PARAMETER]
    if parameter.WhichOneof("parameter_choice") != "int64_param":
        raise InvalidRequest(f"Invalid timestamp format in request parameter {TIMESTAMP_PARAMETER}. Should be int64")
    return parameter.int64_param
