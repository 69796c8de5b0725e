"""What GenaiEngine and its worker process say to each other."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """The first message to the worker; it answers with None when it is ready, else with the error."""

    model_path: Path
    device: str
    ov_config: dict[str, Any]
    kv_cache_gb: int
    prefix_caching: bool


@dataclass(frozen=True, slots=True)
class Request:
    """To the worker: prompts as token ids, with the fields of a GenerationConfig for each, and the JSON schema that
    their completions must fit."""

    request_id: int
    prompts: list[list[int]]
    configs: list[dict[str, Any]]
    json_schema: str | None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Tells the worker to drop the rest of this request."""

    request_id: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """From the worker: what one step generated for the prompt at place `row` of a request."""

    request_id: int
    row: int
    token_ids: list[int]
    logprobs: list[float]


@dataclass(frozen=True, slots=True)
class End:
    """From the worker: the request is over. `error` is why, None where all its prompts have their completions."""

    request_id: int
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class CacheUsage:
    """From the worker: the share of the key-value cache that running requests use, where it has changed."""

    share: float


# A message from the worker: all that the steps since the last one brought.
Events = list[Tokens | End | CacheUsage]
