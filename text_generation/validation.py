"""Plain words for pydantic's errors, in requests, environment variables and files."""

from pydantic_core import ErrorDetails

# By pydantic's type of error, with the names of its context. Everything that has a minimum length has 1.
_RULES = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "greater_than": "must be above {gt:.10g}",
    "greater_than_equal": "must be at least {ge:.10g}",
    "int_from_float": "must be an integer",
    "int_parsing": "must be an integer",
    "int_parsing_size": "must be a smaller integer",
    "int_type": "must be an integer",
    "json_invalid": "must be valid JSON ({error})",
    "less_than": "must be below {lt:.10g}",
    "less_than_equal": "must be at most {le:.10g}",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "missing": "is missing",
    "model_type": "must be an object",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must not be empty",
    "string_type": "must be a string",
    "too_long": "must have at most {max_length} items",
    "too_short": "must not be empty",
    "value_error": "{error}",
}


def rule(error: ErrorDetails) -> str:
    """Return the rule that a value breaks, such as `must be at most 2`.

    Only the words of our own validators, in errors of the type `value_error`, may quote the value.
    """
    words = _RULES.get(error["type"])
    return error["msg"] if words is None else words.format_map(error.get("ctx", {}))
