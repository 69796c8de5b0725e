"""Conversations to token ids, by the model's own chat template, safe for text that comes from strangers."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import Metaspace

from text_generation import tokenizer_file
from text_generation.chat_template import ChatTemplate, Message
from text_generation.serve.json_values import strings

# Unicode's last private use plane: stands in for special tokens in a message while its prompt is rendered.
_PRIVATE_USE = range(0x100000, 0x10FFFE)


class PromptEncoder:
    """Renders conversations and encodes them. Only the template writes special tokens: in a message they are text."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer):
        self.template = template
        self.tokenizer = tokenizer
        # To these copies special tokens are ordinary text. As a flag of the one above, other threads would see it too.
        self._literal_tokenizer = _literal(tokenizer)
        self._literal_tokenizer_behind = _behind_other_text(self._literal_tokenizer)
        added = tokenizer.get_added_tokens_decoder().items()
        special = sorted((token for _, token in added if token.special), key=lambda t: len(t.content), reverse=True)
        self._special_tokens = {token.content: token_id for token_id, token in added if token.special}
        self._special_pattern = re.compile("|".join(re.escape(token.content) for token in special) or "(?!)")
        # Some tokens take the white space beside them with them.
        self._own_pattern = re.compile(
            "|".join(
                (r"\s*" if token.lstrip else "") + f"({re.escape(token.content)})" + (r"\s*" if token.rstrip else "")
                for token in special
            )
            or "(?!)"
        )

    @classmethod
    def load(cls, folder: Path) -> "PromptEncoder":
        """The encoder for the model in a folder; ModelFolderError where its template or tokenizer can't be used."""
        template, tokenizer = ChatTemplate.load(folder), tokenizer_file.load(folder)
        tokenizer_file.check_chat(tokenizer, template, folder)
        return cls(template, tokenizer)

    def encode(self, messages: Sequence[Message], variables: Mapping[str, Any]) -> list[int]:
        """The prompt's token ids; TemplateRefused where the template refuses the messages.

        `variables` are the template's, such as `enable_thinking`.
        """
        texts = list(strings([list(messages), variables]))
        if any(map(self._holds_special_token, texts)):
            return self._encode_literally(messages, variables, "".join(texts))
        prompt = self.template.render(messages, **variables)
        token_ids: list[int] = self.tokenizer.encode(prompt, add_special_tokens=False).ids
        return token_ids

    def _holds_special_token(self, text: str) -> bool:
        """Whether there is one in it, or its normalization makes one of it (`</s>` in full-width characters, say)."""
        if self._special_pattern.search(text) is not None:
            return True
        if self.tokenizer.normalizer is None:
            return False
        token_ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        return not set(token_ids).isdisjoint(self._special_tokens.values())

    def _encode_literally(self, messages: Sequence[Message], variables: Mapping[str, Any], typed: str) -> list[int]:
        """The prompt with its special tokens found before the typed ones are put back.

        `typed` is all text that is not the template's.
        """
        used = set(typed)
        stand_ins = (character for character in map(chr, _PRIVATE_USE) if character not in used)
        hidden = dict(zip(sorted(set(self._special_pattern.findall(typed))), stand_ins, strict=False))
        restore = str.maketrans({character: token for token, character in hidden.items()})

        def hide(text: str) -> str:
            return self._special_pattern.sub(lambda match: hidden[match[0]], text)

        prompt = self.template.render(_mapped(list(messages), hide), **_mapped(variables, hide))
        token_ids = []
        tokenizer = self._literal_tokenizer
        for text, special_token_ids in self._stretches(prompt):
            token_ids += tokenizer.encode(text.translate(restore), add_special_tokens=False).ids + special_token_ids
            tokenizer = self._literal_tokenizer_behind
        return token_ids

    def _stretches(self, prompt: str) -> Iterator[tuple[str, list[int]]]:
        """The prompt cut behind each special token: the text before it, and its id."""
        start = 0
        for match in self._own_pattern.finditer(prompt):
            yield prompt[start : match.start()], [self._special_tokens[match[match.lastindex or 0]]]
            start = match.end()
        yield prompt[start:], []


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with each string changed, but for names of members."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _mapped(member, change) for name, member in value.items()}
    if isinstance(value, list):
        return [_mapped(member, change) for member in value]
    return value


def _literal(tokenizer: Tokenizer) -> Tokenizer:
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.encode_special_tokens = True
    return copy


def _behind_other_text(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer for a stretch that is not the first: without the space that some put before a text's first word."""
    spaces = tokenizer.pre_tokenizer
    if not (isinstance(spaces, Metaspace) and spaces.prepend_scheme == "first"):
        return tokenizer
    copy = _literal(tokenizer)
    copy.pre_tokenizer = Metaspace(spaces.replacement, prepend_scheme="never", split=spaces.split)
    return copy
