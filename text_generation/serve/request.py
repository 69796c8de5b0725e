"""A request to the chat graphs: a JSON object with messages and sampling parameters."""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from text_generation.chat_template import Message
from text_generation.errors import RequestError
from text_generation.serve.json_values import strings
from text_generation.serve.sampling import SamplingParams
from text_generation.validation import rule
from text_generation.wording import one_line

# Names that the template renderer itself is called with.
_RESERVED = {
    "self", "messages", "conversations", "chat_template", "tools", "documents", "add_generation_prompt",
    "continue_final_message", "return_assistant_tokens_mask",
}  # fmt: skip

_MAX_QUOTED = 60  # characters of a value or a name in an error message


def _no_reserved(variables: dict[str, Any]) -> dict[str, Any]:
    if reserved := sorted(_RESERVED & set(variables)):
        raise ValueError(f"{reserved[0]} is reserved and can't be passed to the template")
    return variables


class ChatMessage(BaseModel):
    """One turn of the conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    role: Literal["system", "user", "assistant"]
    content: str


class ChatRequest(SamplingParams):
    """Content of the input `request` of the chat graphs, modelled on OpenAI's Chat Completions.

    Only `messages` is required. Fields that are missing or null use the server's settings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    chat_template_kwargs: Annotated[
        dict[str, Any],
        AfterValidator(_no_reserved),
    ] = Field(default_factory=dict, description="Variables for the model's chat template, such as enable_thinking.")

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, given: Any) -> Any:
        if isinstance(given, dict):
            return {name: value for name, value in given.items() if value is not None or name == "messages"}
        return given

    @classmethod
    def parse(cls, text: str) -> "ChatRequest":
        """Parse a request from JSON text; RequestError with one line that says what is wrong."""
        if text.startswith("\ufeff"):
            raise RequestError("request is not valid JSON: leave out the byte order mark at its beginning")
        try:
            content = json.loads(
                text, object_pairs_hook=_unique_members, parse_int=_integer, parse_constant=_refuse_constant
            )
            "".join(strings(content)).encode()
        except RecursionError:
            raise RequestError("request is nested too deeply") from None
        except UnicodeEncodeError:
            raise RequestError("request contains an unpaired surrogate, which is not a character") from None
        except json.JSONDecodeError as error:
            raise RequestError(f"request is not valid JSON: {error}") from None
        if not isinstance(content, dict):
            raise RequestError("request must be a JSON object with messages")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            problems = error.errors()[:3]
            raise RequestError(
                "; ".join(map(_problem, problems)), "; ".join(map(_unquoted_problem, problems))
            ) from None

    @property
    def conversation(self) -> list[Message]:
        """The messages in the form that a chat template expects."""
        return [{"role": message.role, "content": message.content} for message in self.messages]

    def sampling(self, defaults: SamplingParams) -> SamplingParams:
        """Return the defaults, overridden by what the request sets."""
        given = self.model_fields_set & set(SamplingParams.model_fields)
        return defaults.model_copy(update={name: getattr(self, name) for name in given})


def request_schema() -> dict[str, Any]:
    """Return the JSON schema of a request, without defaults, which depend on the server and the model."""
    schema: dict[str, Any] = _plain(ChatRequest.model_json_schema())
    return schema


def _plain(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_plain(member) for member in schema]
    if not isinstance(schema, dict):
        return schema
    match schema:
        case {"anyOf": [{**only}, {"type": "null"}]}:  # null means not given
            return _plain(only)
    # Properties may also be named `title` or `description`; those are schemas, not strings.
    return {
        name: _plain(member)
        for name, member in schema.items()
        if name not in ("title", "default") or isinstance(member, dict)
    }


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            problem = "request is not valid JSON: duplicate key"
            raise RequestError(f"{problem} {_shortened(name)}", problem)
        members[name] = value
    return members


def _integer(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:  # Python limits the digits, since conversion takes quadratic time
        raise RequestError("request contains a number with too many digits") from None


def _refuse_constant(name: str) -> None:
    raise RequestError(f"request is not valid JSON: {name} is not a number in JSON")


def _problem(error: ErrorDetails) -> str:
    """Format one of pydantic's errors as `field: what is wrong with it`, with the value."""
    place, kind = error["loc"], error["type"]
    if kind == "extra_forbidden":
        names = f"; valid fields are {', '.join(ChatRequest.model_fields)}" if len(place) == 1 else ""
        return f"{_joined(place)}: unknown field{names}"
    quoted = "" if kind == "missing" else f" (got {_shortened(error['input'])})"
    return f"{_joined(place)}: {rule(error)}{quoted}"


def _unquoted_problem(error: ErrorDetails) -> str:
    """Format it without the value and without names that are not ours, which may be a user's text."""
    place, kind = error["loc"], error["type"]
    if kind == "extra_forbidden":
        return f"{_joined(place[:-1])}: unknown field"
    return f"{_joined(place)}: {'has an invalid value' if kind == 'value_error' else rule(error)}"


def _joined(place: tuple[int | str, ...]) -> str:
    return ".".join(one_line(str(part), _MAX_QUOTED) for part in place) or "request"


def _shortened(value: Any) -> str:
    return one_line(json.dumps(value, default=str, ensure_ascii=False), _MAX_QUOTED)
