"""Stop strings: the text before the first of them, in pieces."""

from collections.abc import Sequence


class StopStrings:
    """Passes text on up to the first stop string, whatever pieces it comes in.

    The string that is complete first is the one that counts; of two that end at the same character, the longer. Text is
    held back only while it may still become one.
    """

    def __init__(self, strings: Sequence[str]):
        self._strings = strings
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """The text that can be passed on, and whether a stop string was found right behind it."""
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
        """What was held back, as it became no stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are a beginning of `stop`, but not all of it."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
