"""Converts between KServe's JSON, with its binary extension, and the data plane's values."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import rapidjson

from ovms_local.errors import InvalidRequest, NotJson, ServingError
from ovms_local.graphs import GraphState
from ovms_local.infer_request import TIMESTAMP_PARAMETER, InferRequest, InputTensor
from ovms_local.infer_response import VERSION, InferResponse, OutputTensor
from ovms_local.kserve import PLATFORM, ModelMetadata
from ovms_local.packing import element_count, pack_bytes, unpack_bytes

_MAX_DEPTH = 100
# Also a string that does not end, so that none is scanned twice. The groups are opening and closing brackets.
_STRINGS_AND_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|([\[{])|([\]}])', re.DOTALL)
_OFFSET = re.compile(r"Parse error at offset ([0-9]+)")
_NOT_AN_ARRAY = "Could not parse input content. Not valid ndarray detected"
_INT, _UINT = (-(2**31), 2**31 - 1), (0, 2**32 - 1)


@dataclass(frozen=True, slots=True)
class _Numbers:
    """How to read a datatype's numbers from JSON: the Python types, the range (None: any), and the NumPy types that the
    values are read as and then converted to.

    The real server reads integers of every datatype as 32 bits, of which narrower types keep the lowest, and floating
    point numbers in single precision.
    """

    types: frozenset[type]
    range: tuple[int, int] | None
    read: type[np.generic]
    dtype: type[np.generic]


_INTEGERS, _REALS = frozenset([int]), frozenset([int, float])
_NUMBERS = {
    "BOOL": _Numbers(frozenset([bool]), None, np.bool_, np.bool_),
    "INT8": _Numbers(_INTEGERS, _INT, np.int64, np.int8),
    "INT16": _Numbers(_INTEGERS, _INT, np.int64, np.int16),
    "INT32": _Numbers(_INTEGERS, _INT, np.int64, np.int32),
    "INT64": _Numbers(_INTEGERS, _INT, np.int64, np.int64),
    "UINT8": _Numbers(_INTEGERS, _UINT, np.int64, np.uint8),
    "UINT16": _Numbers(_INTEGERS, _UINT, np.int64, np.uint16),
    "UINT32": _Numbers(_INTEGERS, _UINT, np.int64, np.uint32),
    "UINT64": _Numbers(_INTEGERS, _UINT, np.int64, np.uint64),
    "FP32": _Numbers(_REALS, None, np.float64, np.float32),
    "FP64": _Numbers(_REALS, None, np.float32, np.float64),
}
# Bytes per element; the server treats any other datatype as having none.
_ITEM_SIZES = {datatype: np.dtype(numbers.dtype).itemsize for datatype, numbers in _NUMBERS.items()} | {
    "FP16": 2,
    "BYTES": 1,
}


@dataclass(frozen=True, slots=True)
class RequestedOutputs:
    """Which outputs a client wants as binary data: a choice for named outputs, and a default for the others."""

    binary: dict[str, bool]
    default: bool

    def is_binary(self, name: str) -> bool:
        """Whether the client wants this output as binary data."""
        return self.binary.get(name, self.default)


def decode_request(model_name: str, body: bytes, header_length: str | None) -> tuple[InferRequest, RequestedOutputs]:
    """Decode a request from a body whose first `header_length` bytes are JSON; if that is None, all of it is.

    Raises:
        NotJson, InvalidRequest: it is malformed.
        ServingError: it is malformed in a way that the real server reports as a server error.
    """
    length = len(body) if header_length is None else _json_length(header_length, len(body))
    message = _parse(body[:length])
    _expect(isinstance(message, dict), "Request body should be JSON object")
    request_id = _text(message.get("id", ""))
    parameters = _parameters(message)
    requested = RequestedOutputs(_binary_outputs(message), parameters.get("binary_data_output") is True)
    inputs = _inputs(message, memoryview(body)[length:])
    return InferRequest(model_name, inputs, request_id, parameters=parameters), requested


def encode_response(response: InferResponse, requested: RequestedOutputs) -> tuple[bytes, int | None]:
    """Return the body, and the length of its JSON if binary data follows.

    Raises:
        InvalidRequest: an output can't be represented in JSON.
        ServingError: an output is inconsistent.
    """
    outputs, binary = [], []
    for output in response.outputs:
        _check_size(output)
        entry: dict[str, Any] = {"name": output.name, "shape": list(output.shape), "datatype": output.datatype}
        if not requested.is_binary(output.name):
            entry["data"] = _json_data(output)
        elif output.data:
            entry["parameters"] = {"binary_data_size": len(output.data)}
            binary.append(output.data)
        outputs.append(entry)
    message: dict[str, Any] = {"model_name": response.model_name}
    if response.id:
        message["id"] = response.id
    # The server writes the lower 32 bits of the 64.
    timestamp = (response.timestamp + 2**31) % 2**32 - 2**31
    message |= {"model_version": VERSION, "parameters": {TIMESTAMP_PARAMETER: timestamp}, "outputs": outputs}
    text = format_json(message)
    return b"".join([text, *binary]), len(text) if binary else None


def encode_metadata(metadata: ModelMetadata) -> bytes:
    """Encode a graph's metadata; its streams have no datatypes or shapes."""

    def streams(names: tuple[str, ...]) -> list[dict]:
        return [{"name": name, "datatype": "INVALID", "shape": []} for name in names]

    message = {
        "name": metadata.name,
        "versions": [VERSION],
        "platform": PLATFORM,
        "inputs": streams(metadata.inputs),
        "outputs": streams(metadata.outputs),
    }
    return rapidjson.dumps(message, ensure_ascii=False).encode()


def encode_states(states: dict[str, GraphState]) -> bytes:
    """Encode the state of each graph, in the format of the TensorFlow Serving API."""

    def status(state: GraphState) -> dict:
        name, code = state.value
        return {"version": VERSION, "state": name, "status": {"error_code": code, "error_message": code}}

    message = {name: {"model_version_status": [status(state)]} for name, state in states.items()}
    return rapidjson.dumps(message, indent=1, ensure_ascii=False).encode()


def format_json(message: dict) -> bytes:
    """Format JSON like OpenVINO Model Server: objects indented by 4, arrays on one line."""
    return rapidjson.dumps(
        message, indent=4, write_mode=rapidjson.WM_SINGLE_LINE_ARRAY, ensure_ascii=False, allow_nan=False
    ).encode()


class _FirstKeyCounts(rapidjson.Decoder):
    def start_object(self) -> list:
        return []

    def end_object(self, members: list) -> dict:
        return dict(reversed(members))


_decode_json = _FirstKeyCounts(number_mode=rapidjson.NM_NATIVE)


def _json_length(header: str, body_length: int) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", header, re.ASCII) or int(header) > _INT[1]:
        raise ServingError("Inference-Header-Content-Length header is invalid and couldn't be parsed")
    if int(header) > body_length:
        raise ServingError("Inference-Header-Content-Length header exceeds actual payload length")
    return int(header)


def _parse(text: bytes) -> Any:
    text = text.partition(b"\0")[0]
    end = _end_of_allowed_depth(text)
    try:
        return _decode_json(text[:end])
    except ValueError as error:
        # The server reports what comes first, the depth or a syntax error.
        offset = _OFFSET.match(str(error))
        if end is not None and offset and int(offset[1]) >= end:
            raise ServingError("JSON nesting depth exceeds the allowed limit") from None
        raise NotJson(f"The file is not valid json - {error}") from None


def _end_of_allowed_depth(text: bytes) -> int | None:
    """Return the position after the first bracket that is nested too deep, if any. The parser would crash there."""
    if text.count(b"[") + text.count(b"{") <= _MAX_DEPTH:
        return None
    depth = 0
    for match in _STRINGS_AND_BRACKETS.finditer(text):
        if match[1]:
            depth += 1
            if depth > _MAX_DEPTH:
                return match.end()
        elif match[2]:
            depth -= 1
    return None


def _expect(condition: object, message: str) -> None:
    if not condition:
        raise InvalidRequest(message)


def _text(value: Any) -> str:
    """Return a string up to its first null character, as the server reads it."""
    if not isinstance(value, str):
        raise InvalidRequest(_NOT_AN_ARRAY)
    return value.partition("\0")[0]


def _is_int32(value: Any) -> bool:
    return type(value) is int and _INT[0] <= value <= _INT[1]


def _parameters(message: dict) -> dict[str, str | bool | int]:
    parameters = message.get("parameters", {})
    _expect(isinstance(parameters, dict), "Could not parse request parameters")
    for name, value in parameters.items():
        if isinstance(value, str):
            parameters[name] = _text(value)
        else:
            _expect(isinstance(value, bool) or _is_int32(value), "Could not parse request parameters")
    return {_text(name): value for name, value in parameters.items()}


def _binary_outputs(message: dict) -> dict[str, bool]:
    outputs = message.get("outputs", [])
    _expect(isinstance(outputs, list), _NOT_AN_ARRAY)
    binary = {}
    for output in outputs:
        valid = isinstance(output, dict) and isinstance(output.get("name"), str)
        _expect(valid, "Could not parse output content.")
        wish = _parameters(output).get("binary_data")
        if isinstance(wish, bool):
            binary[_text(output["name"])] = wish
    return binary


@dataclass(frozen=True, slots=True)
class _JsonInput:
    """An input as described in the JSON. If it has no elements there, its data is binary and this `data` is None."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    binary_data_size: str | bool | int | None
    data: bytes | None


def _inputs(message: dict, binary: memoryview) -> tuple[InputTensor, ...]:
    inputs = message.get("inputs", [])
    _expect(isinstance(inputs, list), _NOT_AN_ARRAY)
    _expect(inputs, "Invalid JSON structure, missing inputs")
    tensors, position = [], 0
    for tensor in [_json_input(tensor, len(inputs) == 1) for tensor in inputs]:
        if tensor.data is not None and tensor.binary_data_size is not None:
            raise ServingError("Request contains values both in binary data and in content value")
        data: bytes | memoryview | None = tensor.data
        if data is None:
            end = position + _binary_size(tensor, len(binary) if len(inputs) == 1 else None)
            _expect(end <= len(binary), "Received buffer size is smaller than binary_data_size parameter indicates")
            data, position = binary[position:end], end
        tensors.append(InputTensor(tensor.name, tensor.datatype, tensor.shape, data))
    in_json = sum(isinstance(tensor.data, bytes) for tensor in tensors)
    _expect(
        in_json in (0, len(tensors)),
        "Passing buffers both in ModelInferRequest::InferInputTensor::contents and in "
        "ModelInferRequest::raw_input_contents is not allowed - some inputs are in the JSON and some are not",
    )
    return tuple(tensors)


def _json_input(tensor: Any, is_only_one: bool) -> _JsonInput:
    _expect(isinstance(tensor, dict), _NOT_AN_ARRAY)
    name, shape, datatype = _text(tensor.get("name")), tensor.get("shape"), _text(tensor.get("datatype"))
    _expect(
        isinstance(shape, list) and all(_is_int32(dimension) and dimension >= 0 for dimension in shape), _NOT_AN_ARRAY
    )
    size = _parameters(tensor).get("binary_data_size")
    data = None
    if "data" in tensor:
        data = _pack(datatype, tensor["data"], shape)
    elif size is None and datatype == "BYTES":
        _expect(is_only_one and shape == [1], f"{_NOT_AN_ARRAY}: the input {name} needs a binary_data_size")
    return _JsonInput(name, datatype, tuple(shape), size, data)


def _binary_size(tensor: _JsonInput, remaining: int | None) -> int:
    """Return the size of an input's binary data. A single one-element BYTES input without a size takes all remaining
    bytes."""
    size = tensor.binary_data_size
    if size is not None:
        if type(size) is not int or size < 0:
            raise InvalidRequest("binary_data_size parameter is invalid and cannot be parsed")
        return size
    if remaining is not None and tensor.datatype == "BYTES":
        return remaining
    return element_count(tensor.shape) * _ITEM_SIZES.get(tensor.datatype, 0)


def _pack(datatype: str, data: Any, shape: list[int]) -> bytes | None:
    """Convert data from the JSON to the node's format; None if there are no elements."""
    _expect(isinstance(data, list), _NOT_AN_ARRAY)
    _expect(datatype not in ("FP16", "BF16"), f"{_NOT_AN_ARRAY}: {datatype} can't be sent as JSON")
    values = _flatten(data)
    if datatype == "BYTES":
        return pack_bytes(_text(value).encode() for value in values) if values else None
    if datatype not in _NUMBERS:
        raise InvalidRequest("Could not parse input content. Unsupported data precision detected")
    numbers = _NUMBERS[datatype]
    valid = numbers.types.issuperset(map(type, values))
    if valid and values and numbers.range:
        valid = numbers.range[0] <= min(values) and max(values) <= numbers.range[1]
    _expect(valid, f"{_NOT_AN_ARRAY}: a value is not {datatype} or exceeds 32 bits")
    expected = element_count(shape)
    if values and len(values) != expected:
        raise InvalidRequest(
            "Invalid number of values in tensor proto container - "
            f"Expected: {expected} values; Actual: {len(values)} values"
        )
    with np.errstate(over="ignore"):
        return np.array(values, numbers.read).astype(numbers.dtype).tobytes() if values else None


def _flatten(data: list) -> list:
    if list not in set(map(type, data)):
        return data
    return [value for part in data for value in (_flatten(part) if isinstance(part, list) else (part,))]


def _check_size(output: OutputTensor) -> None:
    expected = element_count(output.shape) * _ITEM_SIZES.get(output.datatype, 0)
    if output.datatype != "BYTES" and len(output.data) != expected:
        raise ServingError(
            "Size of data in tensor_content does not match declared tensor shape - output "
            f"{output.name}, expected raw output content size: {expected}; actual: {len(output.data)}"
        )
    if output.datatype not in _NUMBERS and output.datatype != "BYTES":
        raise InvalidRequest(
            f"Could not parse input content. Unsupported data precision detected - output {output.name}, "
            f"{output.datatype}: use gRPC"
        )


def _json_data(output: OutputTensor) -> list:
    if output.datatype == "BYTES":
        try:
            return [element.decode() for element in unpack_bytes(output.data)]
        except UnicodeDecodeError as error:
            raise _no_json(output, str(error)) from None
        except ValueError as error:
            raise ServingError(f"Internal server error - output {output.name}: {error}") from None
    values = np.frombuffer(output.data, _NUMBERS[output.datatype].dtype)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise _no_json(output, "not all of its numbers are finite")
    numbers: list[Any] = values.tolist()
    return numbers


def _no_json(output: OutputTensor, problem: str) -> InvalidRequest:
    return InvalidRequest(
        f"The output {output.name} can't be represented in JSON ({problem}): request it as binary data"
    )
