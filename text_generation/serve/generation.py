"""The answer to a request while it is generated: turns token ids into text and ends it where it should end."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Literal

from tokenizers import Tokenizer

from text_generation.serve.detokenizer import detokenizer
from text_generation.serve.engines.base import NewTokens, Step
from text_generation.serve.observation import Observation
from text_generation.serve.stop_strings import StopStrings

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Ends:
    """What ends a completion, besides its length, and the special tokens to leave out of it."""

    stop_token_ids: frozenset[int]
    special_token_ids: frozenset[int]
    stop_strings: tuple[str, ...] = ()


class Completion:
    """One completion: converts its tokens to text without stop tokens, special tokens and stop strings."""

    def __init__(self, tokenizer: Tokenizer, ends: Ends):
        self._ends = ends
        self._detokenizer = detokenizer(tokenizer)
        self._stop_strings = StopStrings(ends.stop_strings)
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []
        self.finish_reason: FinishReason | None = None

    def push(self, tokens: NewTokens) -> str:
        """Return the text that the new tokens add; tokens after the end are dropped."""
        text = ""
        for index, token_id in enumerate(tokens.ids):
            if self.finish_reason is not None:
                break
            if token_id in self._ends.stop_token_ids:
                text += self.finish("stop")
            elif token_id not in self._ends.special_token_ids:
                self.token_ids.append(token_id)
                self.logprobs += tokens.logprobs[index : index + 1]
                text += self._pass_on(self._detokenizer.push(token_id))
        return text

    def finish(self, reason: FinishReason) -> str:
        """End the completion, if it has not ended, and return the rest of its text."""
        if self.finish_reason is not None:
            return ""
        rest = self._pass_on(self._detokenizer.flush())
        if self.finish_reason is None:
            self.finish_reason = reason
            rest += self._stop_strings.flush()
        return rest

    def _pass_on(self, text: str) -> str:
        text, stopped = self._stop_strings.push(text)
        if stopped:
            self.finish_reason = "stop"
        return text


class Generation(Iterator[list[str]]):
    """The completions of one request while they are generated: each step is a list of text pieces, one per prompt.

    While the request waits, the pieces are empty. Leaving the context manager, for whatever reason, stops the engine's
    work on the request within one token.
    """

    def __init__(
        self,
        steps: Generator[Step],
        prompt_lengths: list[int],
        tokenizer: Tokenizer,
        ends: Ends,
        observation: Observation,
    ):
        self._steps = steps
        self.prompt_lengths = prompt_lengths
        self.completions = [Completion(tokenizer, ends) for _ in prompt_lengths]
        self._observation = observation
        observation.generating(prompt_lengths, self.completions)

    @property
    def token_count(self) -> int:
        """Total tokens generated so far for all prompts, without special tokens."""
        return sum(len(completion.token_ids) for completion in self.completions)

    def __next__(self) -> list[str]:
        for step in self._steps:
            before = self.token_count
            pieces = [completion.push(new) for completion, new in zip(self.completions, step, strict=True)]
            if (tokens := self.token_count - before) > 0:
                self._observation.step(tokens, sum(bool(new.ids) for new in step))
            if all(completion.finish_reason for completion in self.completions):
                self._steps.close()
                if not any(pieces):
                    break
            return pieces
        tails = [completion.finish("length") for completion in self.completions]
        if any(tails):
            return tails
        raise StopIteration

    def join(self) -> list[str]:
        """Run to the end and return the complete completions, one per prompt."""
        nothing = [""] * len(self.completions)  # the first token may already end all of them
        return ["".join(pieces) for pieces in zip(nothing, *self, strict=True)]

    def __enter__(self) -> "Generation":
        return self

    def __exit__(self, *_: object) -> None:
        self._steps.close()
