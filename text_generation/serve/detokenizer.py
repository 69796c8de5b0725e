"""Token ids to text pieces, as the ids come.

`tokenizers.decoders.DecodeStream` does nearly this, but it keeps an incomplete tail to itself for ever, and on bytes
that are not UTF-8 it slows down quadratically or raises. So there are two ways here, by how the tokenizer decodes.
"""

import codecs
import json
import re
from abc import ABC, abstractmethod

from tokenizers import Tokenizer


class Detokenizer(ABC):
    """Decodes one completion: joined, the pieces are what the tokenizer makes of all ids, and none splits a character.

    Special tokens must be left out.
    """

    @abstractmethod
    def push(self, token_id: int) -> str:
        """The text that this token completes, "" where it completes none."""

    @abstractmethod
    def flush(self) -> str:
        """The rest as the decoder writes it, with U+FFFD for what is no character."""


class ByteLevelDetokenizer(Detokenizer):
    """For decoders that join the bytes of all tokens: GPT-2's scheme, which most models of today use."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        return self._decoder.decode(_token_bytes(self._tokenizer.id_to_token(token_id) or ""))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class WindowDetokenizer(Detokenizer):
    """For decoders that look at token after token: what is new is decoded behind the token before it.

    Tokens that stand for a byte each (`<0x0A>`) wait for the end of their run: one that is not UTF-8 turns all bytes
    beside it into U+FFFD.
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
        # Decoders treat a text's first word differently (Llama's strips a space), so there must be something before it.
        self._context = self._pending[-1:] if text else self._context + self._pending
        self._pending = []
        return text

    def _decode(self, token_ids: list[int]) -> str:
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=False)
        return text


def detokenizer(tokenizer: Tokenizer) -> Detokenizer:
    """A detokenizer for one completion."""
    decoder = json.loads(tokenizer.decoder.__getstate__()) if tokenizer.decoder else {}
    kind = ByteLevelDetokenizer if decoder.get("type") == "ByteLevel" else WindowDetokenizer
    return kind(tokenizer)


def _byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in a byte-level vocabulary: itself where it can be printed, else one of
    those from U+0100 on, in order (GPT-2's encoder.py).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_alphabet()


def _token_bytes(token: str) -> bytes:
    # A token that was added with other characters in it stands for itself.
    return bytes(_BYTES[c] for c in token) if all(c in _BYTES for c in token) else token.encode()
