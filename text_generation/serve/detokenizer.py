"""Token ids to text pieces, as the ids come."""

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

# A UTF-8 character has at most four bytes, so more tokens than this without text are no character in the making.
MAX_UNDECODED_TOKENS = 8
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """Decodes one completion; no piece splits a character, and joined the pieces are the decoded completion.

    `DecodeStream` does the work, but it keeps an incomplete tail to itself for ever, and on bytes that are no UTF-8 it
    slows down quadratically or raises. Here what it holds back for too long is decoded at a character's boundary.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        # Decoders treat the start of a text differently (Llama's strips a space), so a text that goes on is decoded
        # behind an ordinary token.
        self._anchor = tokenizer.encode("a", add_special_tokens=False).ids[-1:]
        self._context: list[int] = []
        self._pending: list[int] = []
        self._stream = DecodeStream(skip_special_tokens=True)

    def push(self, token_ids: list[int]) -> str:
        """The text that `token_ids` complete, "" where they complete none. Special tokens must be left out."""
        text = ""
        for token_id in token_ids:
            self._pending.append(token_id)
            try:
                piece = self._stream.step(self._tokenizer, token_id)
            except Exception:  # tokenizers raises a plain one where a byte changes the meaning of those before it
                text += self._settle()
                continue
            if piece is not None:
                text += piece
                self._context = self._anchor
                self._pending.clear()
            elif len(self._pending) > MAX_UNDECODED_TOKENS:
                text += self._settle()
        return text

    def flush(self) -> str:
        """The text of an incomplete tail as the decoder writes it: U+FFFD for what is no character."""
        tail = self._decode(self._context, self._pending)
        self._pending.clear()
        return tail

    def _decode(self, context: list[int], token_ids: list[int]) -> str:
        return self._tokenizer.decode(context + token_ids)[len(self._tokenizer.decode(context)) :]

    def _settle(self) -> str:
        """Emit the pending tokens but for a tail that may still become a character, and start afresh behind them."""
        text, tail = self._decode(self._context, self._pending), []
        if text.endswith(REPLACEMENT):
            for cut in range(len(self._pending) - 1, 0, -1):
                head = self._decode(self._context, self._pending[:cut])
                if head + self._decode(self._anchor, self._pending[cut:]) == text:
                    text, tail = head, self._pending[cut:]
                    break
        self._context = self._anchor
        self._pending = tail
        self._stream = DecodeStream(ids=self._anchor + tail, skip_special_tokens=True)
        return text
