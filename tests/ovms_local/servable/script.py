"""Shared code of the scripted nodes, whose input is JSON with instructions."""

import json
import os
from pathlib import Path

import numpy as np
from pyovms import Tensor


def read(inputs):
    return json.loads(bytes(inputs[0])[4:])


def note(event):
    """Append a line to the file that the test reads."""
    with Path(os.environ["EVENTS"]).open("a") as events:
        events.write(event + "\n")


def wait_for(path):
    """Block until the test writes to this named pipe."""
    Path(path).read_bytes()


def text(name, value):
    data = value.encode()
    return Tensor(name, len(data).to_bytes(4, "little") + data, [1], "BYTES")


def make_output(script):
    kind = script["make"]
    if kind == "text":
        return [text(script.get("name", "out"), script.get("text", ""))]
    if kind == "array":
        return [Tensor("out", np.array(script["values"], script["dtype"]), script.get("shape"), script.get("datatype"))]
    if kind == "transposed":
        return [Tensor("out", np.arange(6, dtype=np.int32).reshape(2, 3).T)]
    if kind == "bytes":
        return [Tensor("out", bytes(script["size"]), [1], script.get("datatype"))]
    if kind == "number":
        return [3]
    if kind == "tuple":
        return (text("out", ""),)
    if kind == "generator":
        return (text("out", "") for _ in range(1))
    if kind == "twice":
        return [text("out", "a"), text("out", "b")]
    if kind == "nothing":
        return []
    if kind == "none":
        return None
    if kind == "describe":
        return [text("out", json.dumps(script["description"]))]
    raise ValueError(kind)
