"""What an engine is: it takes token ids and gives token ids; of text it knows nothing."""

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass, field

from text_generation.serve.sampling import SamplingParams
from text_generation.serve.settings import Settings

# A request that waits has an empty step this often, in seconds: a server learns that a client has left only when it
# sends it something.
KEEPALIVE_S = 1.0


@dataclass(slots=True)
class NewTokens:
    """What a step generated for one prompt: token ids and, where they were asked for, a log-probability for each."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


# One for each prompt of the request, empty where the prompt got no token.
Step = list[NewTokens]


@dataclass(frozen=True, slots=True)
class Work:
    """One request to an engine.

    Each prompt, a list of token ids, is followed by as many tokens as its place in `budgets` says, or ends sooner
    behind the first token of `stop_token_ids`, which is given out too.
    """

    prompts: list[list[int]]
    budgets: list[int]
    sampling: SamplingParams
    stop_token_ids: frozenset[int]


class Engine(ABC):
    """A model that serves requests from any number of threads. Making one begins to load it."""

    supports_response_format = False

    @abstractmethod
    def __init__(self, settings: Settings): ...

    @abstractmethod
    def wait_ready(self) -> None:
        """Wait until the model is loaded; raises whatever went wrong."""

    @property
    def cache_bytes_per_token(self) -> int | None:
        """What a token takes in the key-value cache; None where the engine itself keeps to KV_CACHE_GB."""
        return None

    @property
    def cache_usage(self) -> float | None:
        """The share of KV_CACHE_GB that running requests use; None where the engine does not know."""
        return None

    @abstractmethod
    def generate(self, work: Work) -> Generator[Step]:
        """Generate step by step; closing the generator gives up all that it holds."""

    @abstractmethod
    def close(self) -> None:
        """Stop the engine and end what runs on it."""
