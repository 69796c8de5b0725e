"""Reads a model's properties from its openvino_model.xml in milliseconds, without OpenVINO."""

import math
import re
from dataclasses import dataclass

# https://docs.openvino.ai/2026/documentation/openvino-ir-format/operation-sets/element-types.html
_PRECISIONS = {
    "INT2": {"i2", "u2"},
    "INT3": {"u3"},
    "INT4": {"i4", "u4", "nf4", "f4e2m1"},
    "INT6": {"u6"},
    "INT8": {"i8", "u8"},
    "FP8": {"f8e4m3", "f8e5m2"},
    "FP16": {"f16"},
    "BF16": {"bf16"},
    "FP32": {"f32"},
}
# Share of the weights' elements. Smaller parts, such as codebook tables, do not determine the precision.
_LEAST_SHARE = 0.01

_LAYER = re.compile(rb'<layer\b[^>]*\btype="([^"]*)"[^>]*>\s*(?:<data\b([^>]*)>)?')
_RELEASE = re.compile(rb'<Runtime_version value="([\d.]+)')
_ATTRIBUTE = re.compile(rb'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Ir:
    """A model as described by its IR.

    `precision` is that of the narrowest weights (`INT4` if some layers have 4 bits and others 8). `stateful` says
    whether the model holds the key-value cache as its own state, which generation needs. `weights_bytes` is where the
    constants in openvino_model.bin end, and `release` the OpenVINO release that wrote the IR, if it is recorded.
    """

    precision: str
    stateful: bool
    weights_bytes: int
    release: str | None


def parse(xml: bytes) -> Ir | None:
    """Parse the content of openvino_model.xml; None if it is damaged."""
    layers = _layers(xml)
    if layers is None:
        return None
    kinds, constants = layers
    elements = dict.fromkeys(_PRECISIONS, 0)
    for element_type, shape, _ in constants:
        for precision, types in _PRECISIONS.items():
            if element_type in types and len(shape) > 1:
                elements[precision] += math.prod(shape)
    total = sum(elements.values())
    if not total:
        return None
    narrowest = next(precision for precision, count in elements.items() if count >= _LEAST_SHARE * total)
    release = _RELEASE.search(xml)
    end = max(end for *_, end in constants)
    return Ir(narrowest, b"ReadValue" in kinds, end, release[1].decode() if release else None)


def data_bytes(xml: bytes) -> int | None:
    """Return where the constants in the .bin file of any IR end; None if it has none, or is damaged."""
    layers = _layers(xml)
    return max(end for *_, end in layers[1]) if layers and layers[1] else None


def _layers(xml: bytes) -> tuple[set[bytes], list[tuple[str, list[int], int]]] | None:
    """The kinds of layers, and each constant's element type, shape, and end in the .bin file; None if the XML is
    damaged."""
    if not xml.rstrip(b"\0 \r\n\t").endswith(b"</net>"):
        return None
    kinds, constants = set(), []
    for kind, data in _LAYER.findall(xml):
        kinds.add(kind)
        if kind != b"Const":
            continue
        constant = {name: value.decode() for name, value in _ATTRIBUTE.findall(data)}
        try:
            shape = [int(size) for size in constant[b"shape"].split(",") if size.strip()]
            end = int(constant[b"offset"]) + int(constant[b"size"])
            constants.append((constant[b"element_type"], shape, end))
        except (KeyError, ValueError):
            return None
    return kinds, constants
