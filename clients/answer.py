"""One answer as a client receives it: its texts, token counts and times."""

import json
import time
from dataclasses import dataclass, field

import numpy as np

from clients.common import RequestFailed


@dataclass(slots=True)
class Answer:
    """The completions of a request's prompts, as received so far. The clock starts when the object is created.

    Values that the server has not reported are None. `arrivals_s` are the times of the responses that contain text.
    """

    prompts: list[str]
    completions: list[str] = field(init=False)
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int = 0
    arrivals_s: list[float] = field(default_factory=list)
    started_s: float = field(default_factory=time.monotonic)
    total_s: float = 0.0

    def __post_init__(self) -> None:
        self.completions = [""] * len(self.prompts)

    def add_output(self, name: str, value: np.ndarray) -> None:
        """Add one of the server's outputs; RequestFailed if it is not as the servables send it."""
        self.total_s = time.monotonic() - self.started_s
        try:
            match name:
                case "completion":
                    pieces = [piece.decode(errors="replace") for piece in value]
                    self.completions = [text + piece for text, piece in zip(self.completions, pieces, strict=True)]
                    if any(pieces):
                        self.arrivals_s.append(self.total_s)
                case "token_count" | "completion_tokens":
                    self.completion_tokens = int(value[0])
                case "prompt_tokens":
                    self.prompt_tokens = int(value[0])
                case "finish_reason":
                    self.finish_reason = value[0].decode(errors="replace")
        except (AttributeError, IndexError, TypeError, ValueError):
            raise RequestFailed(f"the server's output {name} is not of the expected form") from None

    @property
    def first_s(self) -> float:
        """Seconds to the first text, 0 if there is none."""
        return self.arrivals_s[0] if self.arrivals_s else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Completion tokens divided by the total time."""
        return self.completion_tokens / self.total_s if self.total_s else 0.0

    def as_json(self) -> str:
        """Return one line of JSON with texts, counts and times in ms, for programs."""
        gaps_s = np.diff(self.arrivals_s)
        median_s, p99_s = np.percentile(gaps_s, [50, 99]) if gaps_s.size else (None, None)
        values = {
            "prompts": self.prompts,
            "completions": self.completions,
            "finish_reason": self.finish_reason,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "tokens_per_second": round(self.tokens_per_second, 2),
            "pieces": len(self.arrivals_s),
            "total_ms": _ms(self.total_s),
            "first_token_ms": _ms(self.first_s if self.arrivals_s else None),
            "median_between_pieces_ms": _ms(median_s),
            "p99_between_pieces_ms": _ms(p99_s),
        }
        return json.dumps(values)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 2)
