"""Stop strings: cuts text that arrives in pieces at the first stop string."""

from collections.abc import Sequence


class StopStrings:
    """Passes on text up to the first stop string, however the text is split into pieces.

    The stop string that is completed first counts; of two that end at the same character, the longer one. Text is held
    back only while it may still become a stop string.
    """

    def __init__(self, strings: Sequence[str]):
        self._strings = strings
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Return the text that can be passed on, and whether a stop string follows it."""
        text = self._held + text
        found = [(start + len(stop), start) for stop in self._strings if (start := text.find(stop)) >= 0]
        if found:
            self._held = ""
            _, start = min(found)
            return text[:start], True
        held = max((_overlap(text, stop) for stop in self._strings), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def flush(self) -> str:
        """Return the text that was held back, since it did not become a stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of `text` are a beginning of `stop`, but not all of it."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
