"""The engine interface: an engine takes and returns token ids and never handles text."""

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass, field

from text_generation.serve.sampling import SamplingParams
from text_generation.serve.settings import Settings

# How often, in seconds, a waiting request yields an empty step: a server notices that a client has left only when it
# sends something.
KEEPALIVE_S = 1.0


@dataclass(slots=True)
class NewTokens:
    """The output of one step for one prompt: token ids and, if requested, a log-probability for each."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


# One entry per prompt of the request, empty if the prompt got no token. Engines may join the tokens of quick steps.
Step = list[NewTokens]


@dataclass(frozen=True, slots=True)
class Work:
    """One request to an engine.

    For each prompt, a list of token ids, the engine generates the number of tokens in `budgets`, or stops sooner after
    the first token in `stop_token_ids`, which is also returned.
    """

    prompts: list[list[int]]
    budgets: list[int]
    sampling: SamplingParams
    stop_token_ids: frozenset[int]

    @property
    def eager(self) -> bool:
        """Whether each token is needed at once: a stop string, which the caller finds, may end it at any token."""
        return bool(self.sampling.stop)


class Engine(ABC):
    """A model that serves requests from any number of threads. The constructor starts to load it."""

    supports_response_format = False

    @abstractmethod
    def __init__(self, settings: Settings): ...

    @abstractmethod
    def wait_ready(self) -> None:
        """Wait until the model is loaded; raises any error that occurred."""

    @property
    def cache_bytes_per_token(self) -> int | None:
        """Bytes per token in the key-value cache; None if the engine enforces KV_CACHE_GB itself."""
        return None

    @property
    def cache_usage(self) -> float | None:
        """Share of KV_CACHE_GB that running requests use; None if the engine does not know."""
        return None

    @abstractmethod
    def generate(self, work: Work) -> Generator[Step]:
        """Generate step by step; closing the generator releases everything it holds."""

    @abstractmethod
    def close(self) -> None:
        """Stop the engine and all requests running on it."""
