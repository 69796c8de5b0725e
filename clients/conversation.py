"""A conversation with a model, which is sent to the servable with every question."""

import json
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its answer, which may be partial."""

    question: str
    answer: str

    def messages(self) -> list[dict[str, str]]:
        """Return the turn as two chat messages."""
        return [{"role": "user", "content": self.question}, {"role": "assistant", "content": self.answer}]


@dataclass(slots=True)
class Conversation:
    """The turns so far. The first `left_out` of them are no longer sent."""

    system: str | None = None
    turns: list[Turn] = field(default_factory=list)
    left_out: int = 0

    def messages_for(self, question: str) -> list[dict[str, str]]:
        """Return the messages to send with this question."""
        return [*self._messages(self.turns[self.left_out :]), {"role": "user", "content": question}]

    def save(self, path: Path) -> None:
        """Write all messages, including those no longer sent, to a JSON file; OSError if that fails."""
        text = json.dumps(self._messages(self.turns), indent=2, ensure_ascii=False)
        path.write_text(f"{text}\n", encoding="utf-8")

    def _messages(self, turns: list[Turn]) -> list[dict[str, str]]:
        first = [{"role": "system", "content": self.system}] if self.system else []
        return first + [message for turn in turns for message in turn.messages()]
