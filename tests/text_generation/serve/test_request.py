import inspect
import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Template
from transformers.utils.chat_template_utils import render_jinja_template

from text_generation.chat_template import ChatTemplate
from text_generation.errors import RequestError
from text_generation.serve.json_schema import MAX_DEPTH, MAX_NODES, check_schema
from text_generation.serve.request import ChatRequest, request_schema
from text_generation.serve.sampling import SamplingParams

README = Path(__file__).parents[3] / "README.md"
HI = [{"role": "user", "content": "Hi"}]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def parse(**fields: object) -> ChatRequest:
    return ChatRequest.parse(json.dumps({"messages": HI} | fields))


def test_what_is_given_is_laid_over_the_defaults():
    defaults = SamplingParams(temperature=0.2, top_p=0.9, max_tokens=100)
    request = parse(top_p=0.5, stop="x", seed=None, logprobs=True)
    assert request.sampling(defaults) == SamplingParams(
        temperature=0.2, top_p=0.5, max_tokens=100, stop=("x",), logprobs=True
    )
    assert request.conversation == HI


def test_the_readme_has_the_schema_of_a_request():
    block = README.read_text().split("The JSON schema of `request`")[1].split("```json\n")[1].split("```")[0]
    assert json.loads(block) == request_schema()


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 2, "top_k": 0, "min_p": 0.5, "stop": ["a", "b"]},
        {"stop": "a"},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}},
        {"response_format": {"type": "text"}, "chat_template_kwargs": {"enable_thinking": False}},
    ],
)
def test_what_the_schema_takes_is_taken(fields):
    jsonschema.validate({"messages": HI} | fields, request_schema())
    parse(**fields)


def refusal(check, argument) -> str | None:
    try:
        check(argument)
    except ValueError as error:
        return str(error)
    return None


@given(st.sampled_from(sorted(ChatRequest.model_fields)), JSON)
def test_any_value_of_any_field_is_taken_or_refused_in_a_line_that_names_it(field, value):
    message = refusal(ChatRequest.parse, json.dumps({"messages": HI} | {field: value}))
    if message is not None:
        assert any(words in message for words in (field, "request is not valid JSON", "surrogate"))
        assert len(message) < 1000
        assert message.isprintable()
        assert "Input should" not in message


SECRET = "xyzzy \x1b[31m\n\u2028"
NAME, SCHEMA = SECRET * 20_000, {"type": "json_schema", "json_schema": {"schema": {"enum": [SECRET]}}}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (json.dumps({"messages": HI, NAME: 1}), "request: "),
        (json.dumps({"messages": [HI[0] | {NAME: 1}]}), "messages.0: "),
        (json.dumps({"messages": HI, "temperature": SECRET}), "temperature: "),
        (json.dumps({"messages": HI, "stop": [SECRET * 50]}), "stop.0: "),
        (json.dumps({"messages": HI, "response_format": SCHEMA}), "response_format.json_schema.schema: "),
        (f"{{{json.dumps(NAME)}: 1, {json.dumps(NAME)}: 2}}", "request is not valid JSON: duplicate key"),
    ],
)
def test_the_client_is_told_in_one_line_and_the_log_without_what_it_sent(text, place):
    with pytest.raises(RequestError) as error:
        ChatRequest.parse(text)
    told, logged = str(error.value), error.value.log_message
    assert "xyzzy" in told
    assert told.isprintable()
    assert len(told) < 1000
    assert logged.startswith(place)
    assert "xyzzy" not in logged
    assert logged.isprintable()


def test_the_names_of_the_renderer_are_reserved():
    """Whatever else is given to the template, it is rendered."""
    template = ChatTemplate("{{ messages[0].content }}", {})
    names = [*_parameters(ChatTemplate.render), *_parameters(render_jinja_template), *_parameters(Template.render)]
    assert "self" in names
    for name in names:
        with pytest.raises(RequestError, match=f"{name} is reserved"):
            parse(chat_template_kwargs={name: 1})
    assert template.render(HI, **parse(chat_template_kwargs={"args": 1, "cls": 2}).chat_template_kwargs) == "Hi"


def _parameters(function: Callable) -> list[str]:
    """The names of the parameters that an argument by name would collide with."""
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [name for name, own in inspect.signature(function).parameters.items() if own.kind not in variable]


@given(st.floats(0, 1, exclude_min=True), st.floats(0, 1, exclude_max=True))
def test_what_the_bounds_exclude_is_not_reached_in_32_bits(top_p, min_p):
    request = parse(top_p=top_p, min_p=min_p)
    assert 0 < np.float32(request.top_p) <= 1
    assert 0 <= np.float32(request.min_p) < 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\ufeff{}", "request is not valid JSON: leave out the byte order mark at its beginning"),
        (f'{{"seed": {"9" * 5000}}}', "request contains a number with too many digits"),
        ('{"messages": ["Hi"]}', 'messages.0: must be an object (got "Hi")'),
        ('{"messages": []}', "messages: must not be empty (got [])"),
        ('{"messages": [], "temperature": "hot"}', "temperature: must be a number"),
        ('{"messages": [], "top_k": 2147483648}', "top_k: must be below 2147483648 (got 2147483648)"),
        ('{"messages": [], "repetition_penalty": 0}', "repetition_penalty: must be at least 0.01 (got 0)"),
    ],
)
def test_a_refusal_is_in_plain_words(text, says):
    with pytest.raises(RequestError) as error:
        ChatRequest.parse(text)
    assert says in str(error.value)


def test_a_duplicate_key_among_many_is_found_at_once():
    """In time that grows with the number of keys, not with its square, which would be minutes."""
    names = [*map(str, range(200_000)), "199999"]
    with pytest.raises(RequestError, match="duplicate key"):
        ChatRequest.parse(f"{{{', '.join(f'{json.dumps(name)}: 0' for name in names)}}}")


@given(st.text(max_size=40))
def test_any_text_at_all_is_a_request_or_refused(text):
    with pytest.raises(RequestError):
        ChatRequest.parse(text)


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "foo"}, "schema.type is 'foo'"),
        ({"type": []}, "schema.type must not be empty"),
        ({"type": "string", "maxLength": 100_000}, "schema.maxLength must be an integer from 0 to 64"),
        ({"type": "string", "pattern": "(a+)+b"}, "schema.pattern is not supported"),
        ({"type": "array", "minItems": 3}, "schema.minItems requires items"),
        ({"type": "number", "minimum": 0.5}, "schema.minimum must be an integer"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "schema.minimum is above maximum"),
        ({"properties": {"a": False}}, "schema.properties.a must be a schema"),
        ({"properties": {'"': {}}}, "schema.properties has a name"),
        ({"properties": []}, "schema.properties must be an object"),
        ({"required": ["a"]}, "schema.required must be a list of names in properties"),
        ({"required": [None]}, "schema.required must be a list of names in properties"),
        ({"required": [["a"]], "properties": {"a": {}}}, "schema.required must be a list of names in properties"),
        ({"enum": []}, "schema.enum must be a non-empty list"),
        ({"enum": ["a\nb"]}, "schema has a value that contains a quote"),
        ({"anyOf": []}, "schema.anyOf must be a list of schemas"),
        ({"$ref": "#/$defs/a"}, "schema.$ref must be #/$defs/NAME"),
        ({"$ref": None}, "schema.$ref must be #/$defs/NAME"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": None}}}, "schema.$ref must be #/$defs/NAME"),
        ({"$ref": "#/$defs/a/b", "$defs": {"a/b": {}}}, "schema.$ref must be #/$defs/NAME"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "schema.$ref refers to itself"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {}}, "type": "object"}, "schema.type can't stand beside $ref"),
        ({"anyOf": [{}], "properties": {"a": {}}}, "schema.properties can't stand beside anyOf"),
        ({"type": "integer", "enum": [1, 30], "minimum": 10}, "schema.minimum can't stand beside enum"),
        ({"const": "a", "enum": ["b"]}, "schema.const can't stand beside enum"),
        ({"type": "integer", "enum": [1, True]}, "schema has a value of another type than integer: true"),
        ({"type": ["string", "null"], "const": 5}, "schema has a value of another type than string, null: 5"),
        ({"enum": [{"a": [12345678901234567890]}]}, "schema has a number beyond 2^53"),
        ({"maxLength": 3}, "schema.minLength and maxLength require type string"),
        (
            {"properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "boolean"}},
            "schema.additionalProperties beside properties must be true or false",
        ),
        ({"properties": {f"p{n}": {} for n in range(MAX_NODES)}}, f"more than {MAX_NODES} parts"),
        ({"enum": ["x" * 20_000]}, "bytes, but may have at most 16,384"),
    ],
)  # fmt: skip
def test_a_schema_that_would_end_or_hold_up_the_batch_is_refused(schema, says):
    with pytest.raises(ValueError, match="schema") as error:
        check_schema(schema)
    assert says in str(error.value)


def strings(*lengths: tuple[int, int]) -> dict:
    """Return a schema of strings with these minLength and maxLength."""
    fields = [{"type": "string", "minLength": low, "maxLength": high} for low, high in lengths]
    return {"type": "object", "properties": {f"p{number}": field for number, field in enumerate(fields)}}


@pytest.mark.parametrize("lengths", [[(36, 36)] * 14, [(0, 64)] * 100, [(n, 60) for n in range(4)]])
def test_lengths_of_strings_that_compile_quickly_are_taken(lengths):
    check_schema(strings(*lengths))


@pytest.mark.parametrize("lengths", [[(36, 36)] * 15, [(n, 60) for n in range(5)], [(64, 64)] * 9])
def test_lengths_of_strings_that_compile_slowly_are_refused(lengths):
    with pytest.raises(ValueError, match="minLength and maxLength take too long to compile"):
        check_schema(strings(*lengths))


def test_a_deep_schema_is_refused():
    schema: dict = {"type": "string"}
    for _ in range(MAX_DEPTH + 1):
        schema = {"type": "array", "items": schema}
    with pytest.raises(ValueError, match=f"nested deeper than {MAX_DEPTH}"):
        check_schema(schema)


KEYWORDS = ["type", "items", "enum", "const", "anyOf", "properties", "required", "$ref", "$defs", "minItems"]


@given(st.dictionaries(st.sampled_from(KEYWORDS), JSON))
def test_any_object_is_a_schema_or_refused(schema):
    assert refusal(check_schema, schema) != ""
