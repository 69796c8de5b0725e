"""Converts token ids to text pieces incrementally.

`tokenizers.decoders.DecodeStream` does nearly this, but it never emits an incomplete tail, and on bytes that are not
UTF-8 it takes quadratic time or raises. There are two implementations, for the two ways in which tokenizers decode.
"""

import codecs
import json
import re
from abc import ABC, abstractmethod
from typing import Any

from tokenizers import Tokenizer, decoders


class Detokenizer(ABC):
    """Decodes one completion. The joined pieces equal the tokenizer's text of all ids; no piece splits a character.

    The caller must leave out special tokens.
    """

    @abstractmethod
    def push(self, token_id: int) -> str:
        """Return the text that this token completes, "" if it completes none."""

    @abstractmethod
    def flush(self) -> str:
        """Return the remaining text, with U+FFFD for incomplete or invalid characters."""


class ByteLevelDetokenizer(Detokenizer):
    """For decoders that join the bytes of all tokens: GPT-2's scheme, which most current models use."""

    def __init__(self, tokenizer: Tokenizer, before: decoders.Decoder):
        """`before` is what the tokenizer's decoder does to each token first."""
        self._tokenizer = tokenizer
        self._before = before
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        token = self._before.decode([self._tokenizer.id_to_token(token_id) or ""])
        return self._decoder.decode(_token_bytes(token))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class WindowDetokenizer(Detokenizer):
    """For decoders that work token by token: new tokens are decoded together with the one before them.

    Tokens that stand for single bytes (`<0x0A>`) are held back until their run ends, because one invalid byte turns
    the whole run into U+FFFD.
    """

    _BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._context: list[int] = []
        self._pending: list[int] = []

    def push(self, token_id: int) -> str:
        self._pending.append(token_id)
        if self._BYTE.fullmatch(self._tokenizer.id_to_token(token_id) or ""):
            return ""
        return self.flush()

    def flush(self) -> str:
        text = self._decode(self._context + self._pending)[len(self._decode(self._context)) :]
        # Decoders treat a text's first word differently (Llama's strips a space), so some token must precede it.
        self._context = self._pending[-1:] if text else self._context + self._pending
        self._pending = []
        return text

    def _decode(self, token_ids: list[int]) -> str:
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=False)
        return text


def detokenizer(tokenizer: Tokenizer) -> Detokenizer:
    """Create the detokenizer for one completion."""
    steps = _steps(json.loads(tokenizer.decoder.__getstate__())) if tokenizer.decoder else []
    if [step["type"] for step in steps[-1:]] != ["ByteLevel"]:
        return WindowDetokenizer(tokenizer)
    before = decoders.Sequence([])
    before.__setstate__(json.dumps({"type": "Sequence", "decoders": steps[:-1]}).encode())
    return ByteLevelDetokenizer(tokenizer, before)


def _steps(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a decoder, as in tokenizer.json, does one after the other."""
    if decoder["type"] != "Sequence":
        return [decoder]
    return [step for part in decoder["decoders"] for step in _steps(part)]


def _byte_alphabet() -> dict[str, int]:
    """Map the characters of a byte-level vocabulary to bytes: a printable character is its own byte, and those from
    U+0100 on stand for the other bytes in order (GPT-2's encoder.py).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_alphabet()


def _token_bytes(token: str) -> bytes:
    # An added token with other characters stands for its own text.
    return bytes(_BYTES[c] for c in token) if all(c in _BYTES for c in token) else token.encode()
