"""What is asked of every subject, and what is kept of its answers."""

from dataclasses import dataclass, field

# Of about equal length, so that clients prefill alike; a client's requests go round them.
QUESTIONS = [
    "What is the theory of relativity?",
    "Who was Albert Einstein and why is he known?",
    "How does a bicycle stay upright when it moves?",
    "Why is the sky blue and the sunset red?",
    "What makes bread rise in the oven?",
    "How do ships float although steel is heavy?",
    "What did the printing press change in Europe?",
    "How do birds find their way in autumn?",
]


@dataclass(frozen=True, slots=True)
class Workload:
    """`clients` at once, each with `requests` one after another of exactly `new_tokens` tokens."""

    clients: int
    requests: int
    new_tokens: int

    @property
    def tokens(self) -> int:
        """Tokens that all requests together generate, special ones included."""
        return self.clients * self.requests * self.new_tokens

    def questions(self) -> list[list[str]]:
        """The questions of each client."""
        return [
            [QUESTIONS[(client + request) % len(QUESTIONS)] for request in range(self.requests)]
            for client in range(self.clients)
        ]


@dataclass(slots=True)
class Answer:
    """One request's timeline in seconds of the system's monotonic clock, which all processes share."""

    sent: float
    arrivals: list[float] = field(default_factory=list)  # of the pieces, each one token or some that piled up
    ended: float = 0.0

    @property
    def first_token_s(self) -> float:
        """Time to first token."""
        return self.arrivals[0] - self.sent

    @property
    def gaps_s(self) -> list[float]:
        """Times between one piece and the next."""
        return [later - earlier for earlier, later in zip(self.arrivals, self.arrivals[1:], strict=False)]


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement: a workload's answers, and the peak memory of the process that gave them."""

    workload: Workload
    answers: list[Answer]
    peak_bytes: int

    @property
    def tokens_per_s(self) -> float:
        """All tokens over the time from the first request's sending to the last one's end."""
        seconds = max(answer.ended for answer in self.answers) - min(answer.sent for answer in self.answers)
        return self.workload.tokens / seconds
