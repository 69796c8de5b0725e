"""What a model's generation_config.json recommends: sampling parameters and end tokens."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, FiniteFloat, ValidationError

from text_generation.model_folder import ModelFolderError, read_json
from text_generation.validation import rule

Temperature = Annotated[
    FiniteFloat, Field(ge=0, le=2, description="0 always takes the likeliest token; higher values sample more evenly.")
]
# GenAI's are 32-bit floats, in which values closer to the excluded bounds than these would become the bounds.
_LEAST_TOP_P, _GREATEST_MIN_P = 2.0**-126, 1 - 2.0**-24
TopP = Annotated[
    FiniteFloat,
    Field(gt=0, le=1, description="Sample from the likeliest tokens with this total probability."),
    AfterValidator(lambda top_p: max(top_p, _LEAST_TOP_P)),
]
TopK = Annotated[int, Field(ge=0, lt=2**31, description="Sample from this many of the likeliest tokens; 0: from all.")]
MinP = Annotated[
    FiniteFloat,
    Field(ge=0, lt=1, description="Exclude tokens less likely than this fraction of the likeliest one."),
    AfterValidator(lambda min_p: min(min_p, _GREATEST_MIN_P)),
]
RepetitionPenalty = Annotated[
    FiniteFloat,
    Field(ge=0.01, le=100, description="Above 1, tokens of the conversation so far become less likely; 1: off."),
]


class _Recommended(BaseModel):
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    repetition_penalty: RepetitionPenalty | None = None


def recommended_sampling(path: Path) -> dict[str, Any]:
    """Read the sampling parameters in a generation_config.json. `do_sample` false means temperature 0.

    Raises ModelFolderError if the file, or a value in it, can't be used.
    """
    content = read_json(path)
    found = {name: content[name] for name in _Recommended.model_fields if content.get(name) is not None}
    if content.get("do_sample") is False:
        found["temperature"] = 0.0
    try:
        _Recommended.model_validate(found)
    except ValidationError as error:
        problems = (f"{e['loc'][0]} is {e['input']!r}: {rule(e)}" for e in error.errors())
        raise ModelFolderError(f"{path} can't be used: {'; '.join(problems)}; correct the file") from error
    return found


def end_token_ids(path: Path) -> set[int]:
    """Read the ids of the end tokens in a generation_config.json or config.json.

    Raises ModelFolderError if the file, or a value in it, can't be used.
    """
    stated = read_json(path).get("eos_token_id")
    token_ids = stated if isinstance(stated, list) else [] if stated is None else [stated]
    if not all(type(token_id) is int and token_id >= 0 for token_id in token_ids):
        raise ModelFolderError(
            f"{path} can't be used: eos_token_id is {stated!r}: must be the id of a token, or a list; correct the file"
        )
    return set(token_ids)
