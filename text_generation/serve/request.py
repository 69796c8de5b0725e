"""A request to the chat graphs: a JSON object with messages, and how to answer them."""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from text_generation.chat_template import Message
from text_generation.errors import RequestError, first_line
from text_generation.serve.json_values import strings
from text_generation.serve.sampling import SamplingParams

# What the renderer of the template is given by us.
_RESERVED = {
    "messages", "conversations", "chat_template", "tools", "documents", "add_generation_prompt",
    "continue_final_message", "return_assistant_tokens_mask",
}  # fmt: skip


def _no_reserved(variables: dict[str, Any]) -> dict[str, Any]:
    if reserved := sorted(_RESERVED & set(variables)):
        raise ValueError(f"{reserved[0]} can't be given to the template")
    return variables


class ChatMessage(BaseModel):
    """One turn of the conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    role: Literal["system", "user", "assistant"]
    content: str


class ChatRequest(SamplingParams):
    """What the input `request` of the chat graphs holds, after OpenAI's Chat Completions.

    Only `messages` is needed. What else is left out, or null, is as the server is set.
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
        """The request in a JSON text; RequestError in one line that names what is wrong."""
        try:
            content = json.loads(text, object_pairs_hook=_members, parse_constant=_refuse_constant)
        except RecursionError:
            raise RequestError("request is nested too deeply") from None
        except ValueError as error:
            raise RequestError(f"request is not valid JSON: {first_line(error)}") from None
        try:
            "".join(strings(content)).encode()
        except UnicodeEncodeError:
            raise RequestError("request has half of a surrogate pair in it, which is not a character") from None
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
        """The messages, as a chat template takes them."""
        return [{"role": message.role, "content": message.content} for message in self.messages]

    def sampling(self, defaults: SamplingParams) -> SamplingParams:
        """The defaults with what the request says laid over them."""
        given = self.model_fields_set & set(SamplingParams.model_fields)
        return defaults.model_copy(update={name: getattr(self, name) for name in given})


def request_schema() -> dict[str, Any]:
    """The JSON schema of a request, without defaults, since these are the server's and the model's."""
    schema: dict[str, Any] = _plain(ChatRequest.model_json_schema())
    return schema


def _plain(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_plain(member) for member in schema]
    if not isinstance(schema, dict):
        return schema
    match schema:
        case {"anyOf": [{**only}, {"type": "null"}]}:  # null stands for what is not given
            return _plain(only)
    # A property may be called `title` or `description` too; those are schemas, not texts.
    return {
        name: _plain(member)
        for name, member in schema.items()
        if name not in ("title", "default") or isinstance(member, dict)
    }


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice")
    return members


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def _problem(error: ErrorDetails) -> str:
    """One of pydantic's errors as `field: what is wrong with it`."""
    quotes_nothing = error["type"] in ("missing", "extra_forbidden")
    return _unquoted_problem(error) + ("" if quotes_nothing else f" (got {_shortened(error['input'])})")


def _unquoted_problem(error: ErrorDetails) -> str:
    """The same without the value, which may be what somebody has written."""
    place = ".".join(map(str, error["loc"])) or "request"
    if error["type"] == "extra_forbidden":
        known = ChatRequest if len(error["loc"]) == 1 else None
        return f"{place}: there is no such field" + (f"; there are {', '.join(known.model_fields)}" if known else "")
    return f"{place}: {error['msg'].removeprefix('Value error, ')}"


def _shortened(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
