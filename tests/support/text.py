"""Texts of the product or of a test, changed for one test."""

from typing import TypeVar

Text = TypeVar("Text", str, bytes)


def edited(text: Text, old: Text, new: Text) -> Text:
    """The text with every `old` replaced; there must be one, or the test would go on with what it did not change."""
    assert old in text, f"{old!r} is not in {text!r}"
    return text.replace(old, new)
