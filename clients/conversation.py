"""A conversation with a model, as the servable wants it with every question."""

import json
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and what came as its answer."""

    question: str
    answer: str

    def messages(self) -> list[dict[str, str]]:
        """The turn as two chat messages."""
        return [{"role": "user", "content": self.question}, {"role": "assistant", "content": self.answer}]


@dataclass(slots=True)
class Conversation:
    """The turns so far. The first `left_out` of them are no longer sent."""

    system: str | None = None
    turns: list[Turn] = field(default_factory=list)
    left_out: int = 0

    def messages_for(self, question: str) -> list[dict[str, str]]:
        """What to send to have this question answered."""
        return [*self._messages(self.turns[self.left_out :]), {"role": "user", "content": question}]

    def save(self, path: Path) -> None:
        """Write all messages to a JSON file, those that are no longer sent included; OSError where that fails."""
        text = json.dumps(self._messages(self.turns), indent=2, ensure_ascii=False)
        path.write_text(f"{text}\n", encoding="utf-8")

    def _messages(self, turns: list[Turn]) -> list[dict[str, str]]:
        first = [{"role": "system", "content": self.system}] if self.system else []
        return first + [message for turn in turns for message in turn.messages()]
