"""Between KServe's JSON, with its binary extension, and the data plane's values."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from ovms_local.errors import InvalidRequest, NotJson
from ovms_local.kserve import (
    PLATFORM,
    TIMESTAMP_PARAMETER,
    VERSION,
    InferRequest,
    InferResponse,
    InputTensor,
    ModelMetadata,
    OutputTensor,
)
from ovms_local.packing import pack_bytes, unpack_bytes

_DTYPES = {
    "BOOL": np.bool_, "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "UINT8": np.uint8,
    "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RestRequest:
    """A request, and which outputs it wants as binary data."""

    request: InferRequest
    binary_outputs: frozenset[str]
    all_binary: bool


def decode_request(model_name: str, body: bytes, header_length: str | None) -> RestRequest:
    """Raises NotJson or InvalidRequest."""
    binary = memoryview(b"")
    if header_length is not None:
        length = int(header_length) if header_length.isascii() and header_length.isdigit() else -1
        if not 0 <= length <= len(body):
            raise InvalidRequest("Invalid Inference-Header-Content-Length: no length within the body")
        binary, body = memoryview(body)[length:], body[:length]
    message = _parse(body)
    _expect(isinstance(message, dict), "Request body should be JSON object")
    parameters = _object(message, "parameters")
    inputs = message.get("inputs")
    _expect(isinstance(inputs, list) and inputs, "Missing inputs in request")
    tensors, position = [], 0
    for tensor in inputs:
        decoded, position = _decode_input(tensor, binary, position)
        tensors.append(decoded)
    _expect(position == len(binary), "Invalid binary data - there is more of it than the inputs say")
    id = message.get("id", "")
    _expect(isinstance(id, str), "id must be a string")
    timestamp = parameters.get(TIMESTAMP_PARAMETER)
    _expect(
        timestamp is None or (isinstance(timestamp, int) and not isinstance(timestamp, bool)),
        f"Invalid timestamp format in request parameter {TIMESTAMP_PARAMETER}. Should be int64",
    )
    return RestRequest(
        InferRequest(model_name, tuple(tensors), id, timestamp),
        frozenset(_binary_outputs(message)),
        parameters.get("binary_data_output") is True,
    )


def encode_response(response: InferResponse, request: RestRequest) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON where binary data follows it.

    Raises:
        InvalidRequest: an output has no place in JSON; it has to be asked for as binary data.
    """
    outputs, binary = [], []
    for output in response.outputs:
        entry: dict[str, Any] = {"name": output.name, "shape": list(output.shape), "datatype": output.datatype}
        if request.all_binary or output.name in request.binary_outputs:
            entry["parameters"] = {"binary_data_size": len(output.data)}
            binary.append(output.data)
        else:
            entry["data"] = _json_data(output)
        outputs.append(entry)
    message: dict[str, Any] = {"model_name": response.model_name}
    if response.id:
        message["id"] = response.id
    message["outputs"] = outputs
    message["parameters"] = {TIMESTAMP_PARAMETER: response.timestamp}
    text = format_json(message).encode()
    return b"".join([text, *binary]), len(text) if binary else None


def encode_metadata(metadata: ModelMetadata) -> bytes:
    """A graph's streams say nothing about datatypes and shapes."""

    def streams(names: tuple[str, ...]) -> list[dict]:
        return [{"name": name, "datatype": "INVALID", "shape": []} for name in names]

    message = {
        "name": metadata.name,
        "versions": [VERSION],
        "platform": PLATFORM,
        "inputs": streams(metadata.inputs),
        "outputs": streams(metadata.outputs),
    }
    return json.dumps(message).encode()


def format_json(value: object, indent: int = 0) -> str:
    """JSON as OpenVINO Model Server lays it out: objects indented by 4, arrays on one line."""
    if isinstance(value, dict):
        if not value:
            return "{}"
        inner = " " * (indent + 4)
        members = [f"{inner}{json.dumps(key)}: {format_json(member, indent + 4)}" for key, member in value.items()]
        return "{\n" + ",\n".join(members) + "\n" + " " * indent + "}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[" + ", ".join(format_json(member, indent + 4) for member in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def _parse(body: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(body, parse_constant=refuse)
    except RecursionError:
        raise InvalidRequest("The JSON of the request is nested too deeply") from None
    except ValueError as error:
        raise NotJson(f"The file is not valid json - {error}") from None


def _expect(condition: object, message: str) -> None:
    if not condition:
        raise InvalidRequest(message)


def _object(message: dict, key: str) -> dict:
    value = message.get(key, {})
    _expect(isinstance(value, dict), f"{key} must be an object")
    return value


def _binary_outputs(message: dict) -> list[str]:
    outputs = message.get("outputs", [])
    _expect(isinstance(outputs, list), "outputs must be an array")
    names = []
    for output in outputs:
        _expect(isinstance(output, dict) and isinstance(output.get("name"), str), "an output must have a name")
        if _object(output, "parameters").get("binary_data") is True:
            names.append(output["name"])
    return names


def _decode_input(tensor: Any, binary: memoryview, position: int) -> tuple[InputTensor, int]:
    _expect(isinstance(tensor, dict), "One of inputs is not a JSON object")
    name, datatype, shape = tensor.get("name"), tensor.get("datatype"), tensor.get("shape")
    _expect(isinstance(name, str), "an input must have a name")
    _expect(isinstance(datatype, str), f"datatype of input {name} must be a string")
    _expect(isinstance(shape, list), f"shape of input {name} must be an array")
    for dimension in shape:
        valid = isinstance(dimension, int) and not isinstance(dimension, bool) and 0 <= dimension < 2**31
        _expect(valid, f"Invalid shape of input {name}: dimensions are 32-bit integers that are not negative")
    if "data" in tensor:
        return InputTensor(name, datatype, tuple(shape), _pack(name, datatype, tensor["data"])), position
    size = _object(tensor, "parameters").get("binary_data_size")
    if size is None:
        _expect(datatype in _DTYPES or datatype == "BYTES", f"binary_data_size of input {name} is missing")
        size = (
            int(np.prod(shape, dtype=object)) * np.dtype(_DTYPES[datatype]).itemsize
            if datatype in _DTYPES
            else (len(binary) - position)
        )
    valid = isinstance(size, int) and not isinstance(size, bool) and 0 <= size <= len(binary) - position
    _expect(valid, f"Invalid binary_data_size of input {name}")
    return InputTensor(name, datatype, tuple(shape), binary[position : position + size]), position + size


def _pack(name: str, datatype: str, data: Any) -> bytes:
    values = _flatten(name, data)
    if datatype == "BYTES":
        _expect(all(isinstance(value, str) for value in values), f"data of input {name} must be strings")
        return pack_bytes(value.encode("utf-8", "surrogatepass") for value in values)
    _expect(datatype in _DTYPES, f"Could not parse input content. Unsupported data precision {datatype} in JSON")
    _expect(all(type(value) in (int, float, bool) for value in values), f"data of input {name} must be numbers")
    return np.array(values).astype(_DTYPES[datatype]).tobytes()


def _flatten(name: str, data: Any) -> list:
    _expect(isinstance(data, list), f"data of input {name} must be an array")
    flat, stack = [], [iter(data)]
    while stack:
        for value in stack[-1]:
            if isinstance(value, list):
                stack.append(iter(value))
                break
            flat.append(value)
        else:
            stack.pop()
    return flat


def _json_data(output: OutputTensor) -> list:
    if output.datatype == "BYTES":
        try:
            return [element.decode("utf-8", "replace") for element in unpack_bytes(output.data)]
        except ValueError as error:
            raise InvalidRequest(f"The output {output.name} has no place in JSON: {error}") from None
    if output.datatype not in _DTYPES:
        raise InvalidRequest(f"The output {output.name} has no place in JSON: its datatype is {output.datatype}")
    return np.frombuffer(output.data, _DTYPES[output.datatype]).tolist()
