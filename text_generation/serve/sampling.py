"""Sampling parameters of a request, with their defaults and bounds."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, WithJsonSchema

from text_generation.generation_config import MinP, RepetitionPenalty, Temperature, TopK, TopP
from text_generation.serve.json_schema import check_schema

Penalty = Annotated[FiniteFloat, Field(ge=-2, le=2)]
Seed = Annotated[int, Field(ge=0, lt=2**32, description="The same seed and request give the same answer.")]

# Each stop string costs a comparison per token, and text that may still become one is held back.
MAX_STOP_STRINGS, MAX_STOP_LENGTH = 4, 256
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]


_STOP_STRING_SCHEMA = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_LENGTH}


def _stop_strings(given: Any) -> Any:
    strings = (given,) if isinstance(given, str) else given
    if not (isinstance(strings, list | tuple) and all(isinstance(string, str) for string in strings)):
        raise ValueError(f"must be a string, or a list of up to {MAX_STOP_STRINGS}")
    return tuple(strings)


class JsonSchema(BaseModel):
    """A named JSON schema, as in OpenAI's API."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = ""
    description: str | None = None
    # Not `schema`, which is a method of pydantic.
    definition: Annotated[dict[str, Any], AfterValidator(check_schema)] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """The form of the answer: any text, any JSON object, or JSON that matches a schema."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def model_post_init(self, _: Any) -> None:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema and the type json_schema require each other")

    @property
    def schema_of_answer(self) -> dict[str, Any] | None:
        """The JSON schema that the answer must match; None if it may be any text."""
        if self.type == "text":
            return None
        return self.json_schema.definition if self.json_schema else {"type": "object"}


class SamplingParams(BaseModel):
    """The sampling parameters of one request, for both engines; the defaults are the original demo's.

    Names are OpenAI's where it has one, else Hugging Face's. With `seed` None, each request gets a new seed. `stop` and
    `max_tokens` end the completion; `logprobs` returns those of the chosen tokens in the model's own distribution.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: Annotated[int, Field(ge=1, description="Longest completion; MAX_NEW_TOKENS at most.")] = 1024
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    top_k: TopK = 50
    min_p: MinP = 0.0
    repetition_penalty: RepetitionPenalty = 1.1
    presence_penalty: Annotated[
        Penalty, Field(description="Subtracted from the logits of tokens that the completion already contains.")
    ] = 0.0
    frequency_penalty: Annotated[
        Penalty, Field(description="Subtracted once for each time the completion contains the token.")
    ] = 0.0
    seed: Seed | None = None
    stop: Annotated[
        tuple[StopString, ...],
        BeforeValidator(_stop_strings),
        Field(max_length=MAX_STOP_STRINGS),
        WithJsonSchema(
            {
                "anyOf": [
                    _STOP_STRING_SCHEMA,
                    {"type": "array", "items": _STOP_STRING_SCHEMA, "maxItems": MAX_STOP_STRINGS},
                ],
                "description": "The completion ends before the first of these strings.",
            }
        ),
    ] = ()
    logprobs: Annotated[bool, Field(description="Return the log-probability of each token of the completion.")] = False
    response_format: Annotated[ResponseFormat, Field(description="ENGINE=genai only.")] | None = None

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken, without sampling."""
        # Below this temperature, dividing by it can overflow 32-bit floats.
        return self.temperature < 1e-4 or self.top_k == 1
