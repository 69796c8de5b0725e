"""How messages are written: in one line, and with nouns that fit their numbers."""


def counted(number: int, noun: str) -> str:
    """Return the number with the noun, in the plural unless it is 1."""
    return f"{number} {noun}{'s' * (number != 1)}"


def one_line(text: str, max_characters: int = 800) -> str:
    """Return text that may be a client's as one line: control characters are escaped, and the end is cut off."""
    escaped = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text[: max_characters + 1]
    )
    return escaped if len(escaped) <= max_characters else f"{escaped[: max_characters - 3]}..."
