"""Between KServe's JSON, with its binary extension, and the data plane's values."""

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ovms_local.errors import InvalidRequest, NotJson
from ovms_local.infer_request import TIMESTAMP_PARAMETER, InferRequest, InputTensor
from ovms_local.infer_response import VERSION, InferResponse, OutputTensor
from ovms_local.kserve import PLATFORM, ModelMetadata
from ovms_local.packing import pack_bytes, unpack_bytes

_MAX_DEPTH = 100
_INT, _UINT = (-(2**31), 2**31 - 1), (0, 2**32 - 1)
_WRAPPED = (_INT[0], _UINT[1])  # of 8 and 16 bits


@dataclass(frozen=True, slots=True)
class _Numbers:
    """A datatype's numbers in JSON: Python's types of them, the range (None: any), what they pass through, and become.

    The real server reads integers of every datatype with 32 bits, of which narrower ones keep the lowest, and floating
    point numbers with single precision.
    """

    types: frozenset[type]
    range: tuple[int, int] | None
    read: type[np.generic]
    dtype: type[np.generic]


_INTEGERS, _REALS = frozenset([int]), frozenset([int, float])
_NUMBERS = {
    "BOOL": _Numbers(frozenset([bool]), None, np.bool_, np.bool_),
    "INT8": _Numbers(_INTEGERS, _WRAPPED, np.int64, np.int8),
    "INT16": _Numbers(_INTEGERS, _WRAPPED, np.int64, np.int16),
    "INT32": _Numbers(_INTEGERS, _INT, np.int64, np.int32),
    "INT64": _Numbers(_INTEGERS, _INT, np.int64, np.int64),
    "UINT8": _Numbers(_INTEGERS, _WRAPPED, np.int64, np.uint8),
    "UINT16": _Numbers(_INTEGERS, _WRAPPED, np.int64, np.uint16),
    "UINT32": _Numbers(_INTEGERS, _UINT, np.int64, np.uint32),
    "UINT64": _Numbers(_INTEGERS, _UINT, np.int64, np.uint64),
    "FP32": _Numbers(_REALS, None, np.float64, np.float32),
    "FP64": _Numbers(_REALS, None, np.float32, np.float64),
}
_ITEM_SIZES = {datatype: np.dtype(numbers.dtype).itemsize for datatype, numbers in _NUMBERS.items()} | {
    "FP16": 2,
    "BF16": 2,
}


@dataclass(frozen=True, slots=True)
class RequestedOutputs:
    """Which outputs a client wants as binary data: those named, and by default the others or not."""

    binary: dict[str, bool]
    default: bool

    def is_binary(self, name: str) -> bool:
        """Whether this one."""
        return self.binary.get(name, self.default)


def decode_request(model_name: str, body: bytes, header_length: str | None) -> tuple[InferRequest, RequestedOutputs]:
    """A request out of a body, whose first `header_length` bytes are JSON, or all of it.

    Raises:
        NotJson, InvalidRequest
    """
    binary = None
    if header_length is not None:
        length = int(header_length) if header_length.isascii() and header_length.isdigit() else -1
        _expect(
            0 <= length <= len(body), "Inference-Header-Content-Length header is invalid: no length of the body's JSON"
        )
        binary, body = memoryview(body)[length:], body[:length]
    message = _parse(body)
    _expect(isinstance(message, dict), "Request body should be JSON object")
    request_id = message.get("id", "")
    _expect(_is_text(request_id), "Could not parse input content. id must be a string")
    parameters = _parameters(message)
    requested = RequestedOutputs(_binary_outputs(message), parameters.get("binary_data_output") is True)
    return InferRequest(model_name, _inputs(message, binary), request_id, parameters=parameters), requested


def encode_response(response: InferResponse, requested: RequestedOutputs) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON where binary data follows it.

    Raises:
        InvalidRequest: an output does not fit into JSON; it has to be asked for as binary data.
    """
    outputs, binary = [], []
    for output in response.outputs:
        entry: dict[str, Any] = {"name": output.name, "shape": list(output.shape), "datatype": output.datatype}
        if requested.is_binary(output.name):
            entry["parameters"] = {"binary_data_size": len(output.data)}
            binary.append(output.data)
        else:
            entry["data"] = _json_data(output)
        outputs.append(entry)
    message: dict[str, Any] = {"model_name": response.model_name}
    if response.id:
        message["id"] = response.id
    message |= {"outputs": outputs, "parameters": {TIMESTAMP_PARAMETER: response.timestamp}}
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


def format_json(value: Any, indent: int = 0) -> str:
    """JSON as OpenVINO Model Server lays it out: objects indented by 4, arrays on one line."""
    if isinstance(value, dict):
        inner = " " * (indent + 4)
        members = [f"{inner}{json.dumps(key)}: {format_json(member, indent + 4)}" for key, member in value.items()]
        return "{\n" + ",\n".join(members) + "\n" + " " * indent + "}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[" + ", ".join(format_json(member, indent + 4) for member in value) + "]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _parse(body: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number in JSON")

    try:
        return json.loads(body.decode(), parse_constant=refuse)
    except RecursionError:
        raise InvalidRequest("The JSON of the request is nested too deeply") from None
    except ValueError as error:
        raise NotJson(f"The file is not valid json - {error}") from None


def _expect(condition: object, message: str) -> None:
    if not condition:
        raise InvalidRequest(message)


def _is_text(value: Any) -> bool:
    """Whether it is a string, and one that can be sent on: JSON can name half a surrogate pair, which is no text."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _parameters(message: dict) -> dict:
    parameters = message.get("parameters", {})
    valid = isinstance(parameters, dict) and all(type(value) in (str, bool, int) for value in parameters.values())
    _expect(valid, "Could not parse request parameters: an object of strings, booleans and integers is expected")
    return parameters


def _binary_outputs(message: dict) -> dict[str, bool]:
    outputs = message.get("outputs", [])
    _expect(isinstance(outputs, list), "Could not parse output content. outputs must be an array")
    binary = {}
    for output in outputs:
        valid = isinstance(output, dict) and isinstance(output.get("name"), str)
        _expect(valid, "Could not parse output content. An output is an object with a name")
        wish = _parameters(output).get("binary_data")
        if isinstance(wish, bool):
            binary[output["name"]] = wish
    return binary


def _inputs(message: dict, binary: memoryview | None) -> tuple[InputTensor, ...]:
    inputs = message.get("inputs")
    _expect(isinstance(inputs, list) and inputs, "Invalid JSON structure. Missing inputs")
    tensors = []
    for tensor in inputs:
        name, datatype, shape = _describe(tensor)
        if "data" in tensor:
            _expect("binary_data_size" not in _parameters(tensor), f"The input {name} has both data and binary data")
            data = _pack(name, datatype, tensor["data"])
            _expect(
                datatype == "BYTES" or len(data) == math.prod(shape) * _ITEM_SIZES[datatype],
                f"Invalid number of values in tensor proto container - the shape of input {name} says another number",
            )
        else:
            _expect(binary is not None, f"Could not parse input content. The input {name} has no data")
            size = _binary_size(tensor, name, datatype, shape, len(binary) if len(inputs) == 1 else None)
            _expect(0 <= size <= len(binary), f"Received buffer size is smaller than input {name} needs: {size}")
            data, binary = binary[:size], binary[size:]
        tensors.append(InputTensor(name, datatype, shape, data))
    mixed = len({"data" in tensor for tensor in inputs}) > 1
    _expect(not mixed, "Invalid message structure - some inputs are in JSON and some are binary")
    return tuple(tensors)


def _describe(tensor: Any) -> tuple[str, str, tuple[int, ...]]:
    _expect(isinstance(tensor, dict), "Could not parse input content. An input is an object")
    name, shape, datatype = tensor.get("name"), tensor.get("shape"), tensor.get("datatype")
    _expect(_is_text(name), "Could not parse input content. An input has no name")
    _expect(isinstance(shape, list), f"Could not parse input content. The input {name} has no shape")
    valid = all(type(dimension) is int and 0 <= dimension < 2**31 for dimension in shape)
    _expect(valid, f"Could not parse input content. Dimensions of input {name} must be integers from 0 to {2**31 - 1}")
    _expect(_is_text(datatype), f"Could not parse input content. The input {name} has no datatype")
    return name, datatype, tuple(shape)


def _binary_size(tensor: dict, name: str, datatype: str, shape: tuple[int, ...], everything: int | None) -> int:
    """Bytes of an input's binary data; of `everything` there is where it is the only input, one element of BYTES."""
    size = _parameters(tensor).get("binary_data_size")
    if size is None and datatype == "BYTES" and shape == (1,) and everything is not None:
        return everything
    if size is None and datatype in _ITEM_SIZES:
        return math.prod(shape) * _ITEM_SIZES[datatype]
    _expect(type(size) is int, f"binary_data_size parameter of input {name} is missing or no integer")
    return size


def _pack(name: str, datatype: str, data: Any) -> bytes:
    values = _flatten(name, data)
    if datatype == "BYTES":
        _expect(all(map(_is_text, values)), f"Could not parse input content. {name} needs strings")
        return pack_bytes(value.encode() for value in values)
    if datatype not in _NUMBERS:
        raise InvalidRequest(
            f"Could not parse input content. Unsupported data precision detected: {datatype} of input {name} in JSON"
        )
    numbers = _NUMBERS[datatype]
    valid = all(type(value) in numbers.types for value in values)
    _expect(valid, f"Could not parse input content. A value of {name} is no {datatype}")
    if numbers.range and values:
        lowest, highest = numbers.range
        valid = lowest <= min(values) and max(values) <= highest
        _expect(valid, f"Could not parse input content. A value of {name} is not from {lowest} to {highest}")
    try:
        with np.errstate(over="ignore"):
            return np.array(values, numbers.read).astype(numbers.dtype).tobytes()
    except OverflowError:
        raise InvalidRequest(f"Could not parse input content. A value of {name} is no {datatype}") from None


def _flatten(name: str, data: Any) -> list:
    _expect(isinstance(data, list), f"Could not parse input content. data of input {name} must be an array")
    flat: list = []
    stack = [iter(data)]
    while stack:
        for value in stack[-1]:
            if isinstance(value, list):
                stack.append(iter(value))
                break
            flat.append(value)
        else:
            stack.pop()
        _expect(len(stack) <= _MAX_DEPTH, "The JSON of the request is nested too deeply")
    return flat


def _json_data(output: OutputTensor) -> list:
    try:
        if output.datatype == "BYTES":
            return [element.decode() for element in unpack_bytes(output.data)]
        if output.datatype not in _NUMBERS:
            raise ValueError("its datatype has no numbers in JSON")
        values = np.frombuffer(output.data, _NUMBERS[output.datatype].dtype)
        if values.size != math.prod(output.shape):
            raise ValueError("the size of its data does not match its shape")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError("not all of its numbers are finite")
        return values.tolist()
    except ValueError as error:
        raise InvalidRequest(
            f"The output {output.name} does not fit into JSON ({error}): ask for binary data"
        ) from None
