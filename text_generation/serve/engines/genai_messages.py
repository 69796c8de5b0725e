"""The messages between GenaiEngine and its worker process."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """The first message to the worker, which replies with None when it is ready, or with an error."""

    model_path: Path
    device: str
    ov_config: dict[str, Any]
    kv_cache_gb: int
    prefix_caching: bool


@dataclass(frozen=True, slots=True)
class Request:
    """To the worker: prompts as token ids, with the fields of a GenerationConfig for each, and the JSON schema that
    their completions must match. If `eager`, each token is needed at once."""

    request_id: int
    prompts: list[list[int]]
    configs: list[dict[str, Any]]
    json_schema: str | None
    eager: bool


@dataclass(frozen=True, slots=True)
class Cancel:
    """To the worker: drop the rest of this request."""

    request_id: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """From the worker: the tokens that one step generated for the prompt with index `row` in a request."""

    request_id: int
    row: int
    token_ids: list[int]
    logprobs: list[float]


@dataclass(frozen=True, slots=True)
class End:
    """From the worker: the request has ended; `error` is None if all its prompts were completed."""

    request_id: int
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class CacheUsage:
    """From the worker: the share of the key-value cache that running requests use, sent when it changes."""

    share: float


# A message from the worker: all events since the last message.
Events = list[Tokens | End | CacheUsage]
