"""Texts that are changed for one test."""

from typing import TypeVar

Text = TypeVar("Text", str, bytes)


def edited(text: Text, old: Text, new: Text) -> Text:
    """Return the text with every `old` replaced; there must be one, or the test would use an unchanged text."""
    assert old in text, f"{old!r} is not in {text!r}"
    return text.replace(old, new)
