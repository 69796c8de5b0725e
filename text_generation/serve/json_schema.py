"""Validates untrusted JSON schemas: accepts only what the grammar compiler is known to compile, and quickly.

GenAI compiles a schema within the step that serves all requests. A schema that it rejects fails the step and with it
all running requests, and a large one delays them (a string of up to 1,000 characters took 25 s).
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from text_generation.serve.json_values import strings

MAX_BYTES, MAX_NODES, MAX_DEPTH = 16_384, 128, 16
# For strings and arrays: each optional character or item is a state of its own.
MAX_COUNT = 64
# For all strings of a schema together, about 2 ms each to compile. A range of lengths takes twice as long as an exact
# length, but the compiler reuses its work for an equal range.
MAX_LENGTHS = 512

# Quotes, backslashes and control characters break the compiler's own strings.
# JSON pointers would need escapes for other names.
_DEFINITION = re.compile(r"#/\$defs/([\w.-]+)", re.ASCII)
_NAME = re.compile(r'[^"\\\x00-\x1f\x7f]+')
_TYPES = {"string", "number", "integer", "boolean", "object", "array", "null"}
_TYPES_OF_VALUES: dict[type, set[str]] = {
    **{str: {"string"}, int: {"integer", "number"}, float: {"number"}, bool: {"boolean"}},
    **{dict: {"object"}, list: {"array"}, type(None): {"null"}},
}
_COUNTS = {"minLength", "maxLength", "minItems", "maxItems"}
_BOUNDS = {"minimum", "maximum"}
_LARGEST_EXACT = 2**53  # the compiler writes larger integers as rounded ones
# What may stand beside these. The compiler ignores anything else there, so the answer would not fit its schema.
_COMPANIONS = {"$ref": set(), "anyOf": set(), "enum": {"type"}, "const": {"type"}}
_NOTES = {"title", "description", "default", "examples", "$schema", "$id", "$comment"}
_KEYWORDS = {
    *("type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "$ref", "$defs"),
    *_COUNTS,
    *_BOUNDS,
    *_NOTES,
}


def check_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema if it can be compiled quickly; else raise ValueError with the place and what is allowed."""
    size = len(json.dumps(schema))
    if size > MAX_BYTES:
        raise ValueError(f"the schema has {size:,} bytes, but may have at most {MAX_BYTES:,}")
    definitions = schema.get("$defs", {})
    waiting: list[tuple[str, Any, int]] = [("schema", schema, 0)]
    count, nodes = 0, []
    while waiting:
        path, node, depth = waiting.pop()
        count += 1
        if count > MAX_NODES:
            raise ValueError(f"the schema has more than {MAX_NODES} parts")
        if depth > MAX_DEPTH:
            raise ValueError(f"{path} is nested deeper than {MAX_DEPTH}")
        if node is True or (node is False and path.endswith(".additionalProperties")):
            continue
        if not isinstance(node, dict):
            raise ValueError(f"{path} must be a schema that can be satisfied: an object, or true")
        waiting += [(f"{path}.{step}", child, depth + 1) for step, child in _children(path, node)]
        _check_node(path, node, definitions)
        nodes.append(node)
    _check_lengths(nodes)
    return schema


def _children(path: str, node: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the schemas within a schema, each with the path to it."""
    for keyword in ("properties", "$defs"):
        children = node.get(keyword, {})
        if not isinstance(children, dict):
            raise ValueError(f"{path}.{keyword} must be an object of schemas")
        yield from ((f"{keyword}.{name}", child) for name, child in children.items())
    for keyword in ("items", "additionalProperties"):
        if keyword in node:
            yield keyword, node[keyword]
    if "anyOf" in node:
        if not (isinstance(node["anyOf"], list) and node["anyOf"]):
            raise ValueError(f"{path}.anyOf must be a list of schemas")
        yield from ((f"anyOf.{index}", child) for index, child in enumerate(node["anyOf"]))


def _check_node(path: str, node: dict[str, Any], definitions: dict[str, Any]) -> None:
    if unknown := sorted(set(node) - _KEYWORDS):
        raise ValueError(f"{path}.{unknown[0]} is not supported: use {', '.join(sorted(_KEYWORDS - _NOTES))}")
    types = _types(path, node)
    _check_numbers(path, node)
    _check_names(path, node)
    _check_companions(path, node)
    if "enum" in node and not (isinstance(node["enum"], list) and node["enum"]):
        raise ValueError(f"{path}.enum must be a non-empty list")
    _check_values(path, [*node.get("enum", []), *([node["const"]] if "const" in node else [])], types)
    if not {"minLength", "maxLength"}.isdisjoint(node) and "string" not in types:
        raise ValueError(f"{path}.minLength and maxLength require type string")
    if "$ref" in node:
        _check_reference(path, node["$ref"], definitions)


def _types(path: str, node: dict[str, Any]) -> list[str]:
    """Return the types that the schema allows, an empty list if it names none."""
    if "type" not in node:
        return []
    types = node["type"] if isinstance(node["type"], list) else [node["type"]]
    if not types:
        raise ValueError(f"{path}.type must not be empty")
    for name in types:
        if not (isinstance(name, str) and name in _TYPES):
            raise ValueError(f"{path}.type is {name!r}: use {', '.join(sorted(_TYPES))}")
    return types


def _check_companions(path: str, node: dict[str, Any]) -> None:
    for keyword, companions in _COMPANIONS.items():
        others = set(node) - _NOTES - {"$defs", keyword} - companions
        if keyword in node and others:
            raise ValueError(f"{path}.{min(others)} can't stand beside {keyword}")
    # The compiler lets an answer repeat a property as an additional one.
    if node.get("properties") and isinstance(node.get("additionalProperties"), dict):
        raise ValueError(f"{path}.additionalProperties beside properties must be true or false")


def _check_values(path: str, values: list[Any], types: list[str]) -> None:
    """Check the values of `enum` and `const`."""
    for text in strings(values):
        if not _NAME.fullmatch(text or "-"):
            raise ValueError(f"{path} has a value that contains a quote, backslash or control character: {text!r}")
    for value in values:
        if types and _TYPES_OF_VALUES[type(value)].isdisjoint(types):
            raise ValueError(f"{path} has a value of another type than {', '.join(types)}: {json.dumps(value)[:40]}")

    def exact(digits: str) -> int:
        if abs(int(digits)) > _LARGEST_EXACT:
            raise ValueError(f"{path} has a number beyond 2^53, which would be rounded: {digits[:40]}")
        return int(digits)

    json.loads(json.dumps(values), parse_int=exact)


def _check_numbers(path: str, node: dict[str, Any]) -> None:
    for keyword in _COUNTS & set(node):
        if type(node[keyword]) is not int or not 0 <= node[keyword] <= MAX_COUNT:
            raise ValueError(f"{path}.{keyword} must be an integer from 0 to {MAX_COUNT}")
    if "minItems" in node and "items" not in node:
        raise ValueError(f"{path}.minItems requires items")
    for keyword in _BOUNDS & set(node):
        # For other numbers, the compiler's grammar accepts values beyond the bounds and text that is not a number.
        if node.get("type") != "integer" or type(node[keyword]) is not int or abs(node[keyword]) > 1e9:
            raise ValueError(f"{path}.{keyword} must be an integer from -1e9 to 1e9, and requires type integer")
    for low, high in (("minLength", "maxLength"), ("minItems", "maxItems"), ("minimum", "maximum")):
        if low in node and high in node and node[low] > node[high]:
            raise ValueError(f"{path}.{low} is above {high}")


def _check_lengths(nodes: list[dict[str, Any]]) -> None:
    limits = [(node.get("minLength", 0), node.get("maxLength", 0)) for node in nodes]
    exact = sum(low for low, high in limits if low == high)
    ranges = sum(2 * max(low, high) for low, high in {(low, high) for low, high in limits if low != high})
    if exact + ranges > MAX_LENGTHS:
        raise ValueError("the schema's minLength and maxLength take too long to compile: use fewer or smaller ones")


def _check_names(path: str, node: dict[str, Any]) -> None:
    properties = node.get("properties", {})
    for name in properties:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{path}.properties has a name that is empty or contains a quote, backslash or control character"
            )
    required = node.get("required", [])
    # The compiler ignores other names, so the answer would not fit its schema.
    if not (isinstance(required, list) and all(isinstance(name, str) and name in properties for name in required)):
        raise ValueError(f"{path}.required must be a list of names in properties")


def _check_reference(path: str, reference: Any, definitions: dict[str, Any]) -> None:
    seen = []
    while True:
        match = _DEFINITION.fullmatch(reference) if isinstance(reference, str) else None
        if not match or match[1] not in definitions:
            raise ValueError(
                f"{path}.$ref must be #/$defs/NAME with a NAME from the schema's $defs, of letters, digits, -, _ and ."
            )
        if match[1] in seen:
            raise ValueError(f"{path}.$ref refers to itself")
        seen.append(match[1])
        definition = definitions[match[1]]
        if not (isinstance(definition, dict) and "$ref" in definition):
            return
        reference = definition["$ref"]
