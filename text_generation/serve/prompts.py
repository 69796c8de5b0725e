"""Converts conversations to token ids with the model's own chat template, safely for untrusted text."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import Sequence as PreTokenizers

from text_generation import tokenizer_file
from text_generation.chat_template import ChatTemplate, Message
from text_generation.serve.json_values import strings

# Unicode's last private use plane: placeholders for special tokens in messages while the prompt is rendered.
_PRIVATE_USE = range(0x100000, 0x10FFFE)


class PromptEncoder:
    """Renders and encodes conversations. Only the template can write special tokens; in messages they stay text."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer):
        self.template = template
        self.tokenizer = tokenizer
        # These copies treat special tokens as plain text. Setting the flag on `tokenizer` would affect other threads.
        self._literal_tokenizer = _literal_copy(tokenizer)
        self._literal_tokenizer_after_token = _without_leading_space(self._literal_tokenizer)
        added = tokenizer.get_added_tokens_decoder().items()
        special = sorted((token for _, token in added if token.special), key=lambda t: len(t.content), reverse=True)
        self._special_tokens = {token.content: token_id for token_id, token in added if token.special}
        self._special_pattern = re.compile("|".join(re.escape(token.content) for token in special) or "(?!)")
        # Some tokens absorb the white space next to them.
        self._template_token_pattern = re.compile(
            "|".join(
                (r"\s*" if token.lstrip else "") + f"({re.escape(token.content)})" + (r"\s*" if token.rstrip else "")
                for token in special
            )
            or "(?!)"
        )

    @classmethod
    def load(cls, folder: Path) -> "PromptEncoder":
        """Load the encoder for the model in a folder; ModelFolderError if its template or tokenizer can't be used."""
        template, tokenizer = ChatTemplate.load(folder), tokenizer_file.load(folder)
        tokenizer_file.check_chat(tokenizer, template, folder)
        return cls(template, tokenizer)

    def encode(self, messages: Sequence[Message], variables: Mapping[str, Any]) -> list[int]:
        """Return the prompt's token ids; TemplateRefused if the template rejects the messages.

        `variables` are further inputs of the template, such as `enable_thinking`.
        """
        texts = list(strings([list(messages), variables]))
        if any(map(self._holds_special_token, texts)):
            return self._encode_literally(messages, variables, "".join(texts))
        prompt = self.template.render(messages, **variables)
        token_ids: list[int] = self.tokenizer.encode(prompt, add_special_tokens=False).ids
        return token_ids

    def _holds_special_token(self, text: str) -> bool:
        """Whether the text contains a special token, or normalization creates one (`</s>` in full-width characters)."""
        if self._special_pattern.search(text) is not None:
            return True
        if self.tokenizer.normalizer is None:
            return False
        token_ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        return not set(token_ids).isdisjoint(self._special_tokens.values())

    def _encode_literally(self, messages: Sequence[Message], variables: Mapping[str, Any], user_text: str) -> list[int]:
        """Encode the prompt with placeholders for users' special tokens, so that only the template's are recognized.

        `user_text` is all text that does not come from the template.
        """
        user_tokens = sorted(set(self._special_pattern.findall(user_text)))
        user_characters = set(user_text)
        free_characters = (character for character in map(chr, _PRIVATE_USE) if character not in user_characters)
        placeholders = dict(zip(user_tokens, free_characters, strict=False))
        tokens_by_placeholder = str.maketrans({placeholder: token for token, placeholder in placeholders.items()})

        def with_placeholders(text: str) -> str:
            return self._special_pattern.sub(lambda match: placeholders[match[0]], text)

        prompt = self.template.render(
            _map_strings(list(messages), with_placeholders), **_map_strings(variables, with_placeholders)
        )
        token_ids = []
        tokenizer = self._literal_tokenizer
        for text, special_token_ids in self._split_after_special_tokens(prompt):
            token_ids += (
                tokenizer.encode(text.translate(tokens_by_placeholder), add_special_tokens=False).ids
                + special_token_ids
            )
            tokenizer = self._literal_tokenizer_after_token
        return token_ids

    def _split_after_special_tokens(self, prompt: str) -> Iterator[tuple[str, list[int]]]:
        """Split the prompt after each special token: yield the text before the token, and the token's id."""
        start = 0
        for match in self._template_token_pattern.finditer(prompt):
            yield prompt[start : match.start()], [self._special_tokens[match[match.lastindex or 0]]]
            start = match.end()
        yield prompt[start:], []


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """Apply `change` to each string in a JSON value, except member names."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _map_strings(member, change) for name, member in value.items()}
    if isinstance(value, list):
        return [_map_strings(member, change) for member in value]
    return value


def _literal_copy(tokenizer: Tokenizer) -> Tokenizer:
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.encode_special_tokens = True
    return copy


def _without_leading_space(tokenizer: Tokenizer) -> Tokenizer:
    """Return the tokenizer for text after a special token: without the space that some add before the first word."""
    if tokenizer.pre_tokenizer is None:
        return tokenizer
    steps = json.loads(tokenizer.pre_tokenizer.__getstate__())
    changed = _never_prepending(steps)
    if changed == steps:
        return tokenizer
    copy, pre_tokenizers = _literal_copy(tokenizer), PreTokenizers([])
    pre_tokenizers.__setstate__(json.dumps({"type": "Sequence", "pretokenizers": [changed]}).encode())
    copy.pre_tokenizer = pre_tokenizers
    return copy


def _never_prepending(pre_tokenizer: dict[str, Any]) -> dict[str, Any]:
    """Change a pre-tokenizer, as in tokenizer.json, so that it puts no space before the first word."""
    if pre_tokenizer["type"] == "Sequence":
        return pre_tokenizer | {"pretokenizers": [_never_prepending(part) for part in pre_tokenizer["pretokenizers"]]}
    if pre_tokenizer["type"] == "Metaspace" and pre_tokenizer["prepend_scheme"] == "first":
        return pre_tokenizer | {"prepend_scheme": "never"}
    return pre_tokenizer
