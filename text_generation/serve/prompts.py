"""Questions to chat prompts to token ids."""

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import nullcontext

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import Metaspace
from transformers import AutoTokenizer

from text_generation.errors import RequestError
from text_generation.serve.settings import Settings

logger = logging.getLogger(__name__)

# Characters; the tokenizer takes up to 1 KB of memory for each while it works, so long texts go one after another.
_LONG_TEXT = 1 << 16

# Unicode's last private use plane: stands in for special tokens in a question while its chat prompt is rendered.
_PRIVATE_USE = range(0x100000, 0x10FFFE)


class ChatPrompts:
    """A model folder's chat template and tokenizer, made safe for text that comes from strangers."""

    def __init__(self, settings: Settings):
        try:
            self._chat = AutoTokenizer.from_pretrained(
                settings.model_path, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # the tokenizer library has plain ones, which name no file
            raise ValueError(f"tokenizer.json or tokenizer_config.json can't be used: {error}") from error
        if self._chat.chat_template is None:
            raise ValueError(f"{settings.model_path} has no chat template: make the folder with download_model.py")
        self._system_prompt = settings.system_prompt
        self._max_prompts = settings.max_prompts_per_request
        self.tokenizer: Tokenizer = self._chat.backend_tokenizer
        # Training leaves these behind in some folders; transformers resets them for each text of its own.
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        # To these copies special tokens are ordinary text. As a flag of the one above, other threads would see it too.
        self._literal_tokenizer = _literal(self.tokenizer)
        self._literal_tokenizer_behind = _behind_other_text(self._literal_tokenizer)
        added = self.tokenizer.get_added_tokens_decoder().items()
        self._special_tokens = {token.content: token_id for token_id, token in added if token.special}
        longest_first = sorted(self._special_tokens, key=len, reverse=True)
        self._special_pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        longest_token = max(len(token.encode()) for token in self.tokenizer.get_vocab())
        # More bytes than this in a request are more tokens than it may have, whatever they say.
        self.max_bytes = settings.max_prompt_tokens_per_request * longest_token
        self._one_long_request = threading.Lock()

    def encode(self, questions: list[str]) -> list[list[int]]:
        """Token ids of each question's chat prompt; RequestError where a question can't be asked."""
        count = len(questions)
        if count == 0:
            raise RequestError("the request has no prompt: send at least one")
        if count > self._max_prompts:
            raise RequestError(
                f"the request has {count} prompts, but MAX_PROMPTS_PER_REQUEST is {self._max_prompts}: send fewer"
            )
        for number, question in enumerate(questions, start=1):
            if not question:
                raise RequestError(f"prompt {number} of {count} is empty")
            if "\0" in question:
                raise RequestError(f"prompt {number} of {count} has a null byte in it")
        logger.debug("%d prompts: %r", count, questions)
        with self._one_long_request if sum(map(len, questions)) > _LONG_TEXT else nullcontext():
            return [self._encode(question) for question in questions]

    def _encode(self, question: str) -> list[int]:
        if not self._holds_special_token(question):
            return self.tokenizer.encode(self._render(question), add_special_tokens=False).ids
        token_ids = []
        tokenizer = self._literal_tokenizer
        for text, special_token_ids in self._stretches(question):
            token_ids += tokenizer.encode(text, add_special_tokens=False).ids + special_token_ids
            tokenizer = self._literal_tokenizer_behind
        return token_ids

    def _holds_special_token(self, question: str) -> bool:
        """Whether there is one in it, or its normalization makes one of it (`</s>` in full-width characters, say)."""
        if self._special_pattern.search(question) is not None:
            return True
        if self.tokenizer.normalizer is None:
            return False
        token_ids = self.tokenizer.encode(question, add_special_tokens=False).ids
        return not set(token_ids).isdisjoint(self._special_tokens.values())

    def _render(self, question: str) -> str:
        messages = [{"role": "user", "content": question}]
        if self._system_prompt is not None:
            messages.insert(0, {"role": "system", "content": self._system_prompt})
        return self._chat.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def _stretches(self, question: str) -> Iterator[tuple[str, list[int]]]:
        """The chat prompt cut behind each special token of the template's own: the text before it, and its id.

        Special tokens typed in the question are hidden from the template, so only its own are found, and put back.
        """
        typed = sorted(set(self._special_pattern.findall(question)))
        used = set(question)
        unused = (character for character in map(chr, _PRIVATE_USE) if character not in used)
        hidden = dict(zip(typed, unused, strict=False))
        shown = str.maketrans({character: token for token, character in hidden.items()})
        prompt = self._render(self._special_pattern.sub(lambda match: hidden[match[0]], question))
        start = 0
        for match in self._special_pattern.finditer(prompt):
            yield prompt[start : match.start()].translate(shown), [self._special_tokens[match[0]]]
            start = match.end()
        yield prompt[start:].translate(shown), []


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
