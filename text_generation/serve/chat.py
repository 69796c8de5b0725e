"""The interface for servables: takes messages and returns the model's answer as text."""

import json
import logging
import math
import threading
from collections.abc import Generator, Sequence
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

from text_generation.chat_template import Message
from text_generation.errors import RequestError, TooLongError
from text_generation.model_folder import context_length
from text_generation.serve.admission import Admission
from text_generation.serve.engines import engine_class
from text_generation.serve.engines.base import KEEPALIVE_S, NewTokens, Step, Work
from text_generation.serve.generation import Ends, Generation
from text_generation.serve.observation import Observation
from text_generation.serve.prompts import PromptEncoder
from text_generation.serve.request import ChatRequest
from text_generation.serve.sampling import SamplingParams
from text_generation.serve.settings import Settings
from text_generation.serve.stop_tokens import stop_token_ids
from text_generation.wording import counted

if TYPE_CHECKING:
    from text_generation.serve.metrics import Metrics

logger = logging.getLogger(__name__)

# Characters. The tokenizer takes up to 1 KB of memory per character, so longer texts are encoded one at a time.
_LONG_TEXT = 1 << 16
# JSON may encode a byte of text as six characters (\u001f), and also contains more than text.
_JSON_EXPANSION, _JSON_OVERHEAD = 6, 1 << 16
_NEVER_ALLOWED = "MAX_PROMPT_TOKENS_PER_REQUEST can never allow that many"


class Chat:
    """A model that answers questions and conversations within the settings' limits; safe to call from any thread."""

    def __init__(self, settings: Settings):
        """Load the model; raises ModelFolderError, or an error of the engine."""
        self._settings = settings
        self.default_sampling = settings.default_sampling()
        with ExitStack() as resources:
            self._metrics = _open_metrics(settings)
            if self._metrics is not None:
                resources.callback(self._metrics.close)
            self._engine = engine_class(settings.engine)(settings)
            resources.callback(self._engine.close)
            self._encoder = PromptEncoder.load(settings.model_path)
            self.tokenizer = self._encoder.tokenizer
            self._context_length = context_length(settings.model_path)
            added = self.tokenizer.get_added_tokens_decoder().items()
            self._special_token_ids = frozenset(token_id for token_id, token in added if token.special)
            model_stop_token_ids = stop_token_ids(
                settings.model_path, self.tokenizer, self._encoder.template.special_tokens.get("eos_token")
            )
            self._stop_token_ids = frozenset() if settings.ignore_eos else model_stop_token_ids
            longest_token = max(len(token.encode()) for token in self.tokenizer.get_vocab())
            # A request with more bytes than this has too many tokens, whatever the text.
            self._max_bytes = settings.max_prompt_tokens_per_request * longest_token
            self._long_texts_lock = threading.Lock()
            self._engine.wait_ready()
            self._admission = self._create_admission()
            if self._metrics is not None:
                self._metrics.watch(self._admission, self._cache_usage)
            self._resources = resources.pop_all()

    def observe(self) -> Observation:
        """Return a context for handling one request, to be entered on its arrival; see Observation."""
        return Observation(self._metrics)

    def check_size(self, name: str, size: int) -> None:
        """Raise TooLongError if questions, an input called `name` with `size` bytes, can't be within the limits.

        Call this before unpacking them.
        """
        if size > self._max_bytes:
            raise TooLongError(
                f"{name} has {size} bytes, more than MAX_PROMPT_TOKENS_PER_REQUEST can ever allow ({self._max_bytes})",
                "send fewer or shorter prompts",
            )

    def check_json_size(self, size: int) -> None:
        """Raise TooLongError if a conversation, as JSON with `size` bytes, can't be within the limits."""
        limit = self._max_bytes * _JSON_EXPANSION + _JSON_OVERHEAD
        if size > limit:
            raise _too_long(counted(size, "byte"), _NEVER_ALLOWED, "leave out turns or shorten them")

    def ask(self, questions: Sequence[str], observation: Observation | None = None) -> Generation:
        """Answer each question separately, with the settings' sampling. Errors are those of `answer`."""
        return self.generate(self.encode(questions), self.default_sampling, observation)

    def encode(self, questions: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each question's prompt; RequestError if a question can't be asked."""
        count, limit = len(questions), self._settings.max_prompts_per_request
        if count == 0:
            raise RequestError("the request has no prompt: send at least one")
        if count > limit:
            raise RequestError(f"the request has {count} prompts, but MAX_PROMPTS_PER_REQUEST is {limit}: send fewer")
        for number, question in enumerate(questions, start=1):
            if not question:
                raise RequestError(f"prompt {number} of {count} is empty")
            if "\0" in question:
                raise RequestError(f"prompt {number} of {count} contains a null byte")
        logger.debug("%s: %r", counted(count, "prompt"), questions)
        return self._encode([self._with_system_prompt([{"role": "user", "content": q}]) for q in questions], {})

    def answer(self, request: ChatRequest, observation: Observation | None = None) -> Generation:
        """Answer a conversation as the request specifies.

        Raises RequestError if the request can't be served, in particular TooLongError if it is too long. Iterating over
        the Generation raises BusyError if no place becomes free, and errors of the engine.
        """
        sampling = request.sampling(self.default_sampling)
        ceiling = self._settings.max_new_tokens
        if sampling.max_tokens > ceiling:
            raise RequestError(f"max_tokens: is {sampling.max_tokens}, but MAX_NEW_TOKENS of this server is {ceiling}")
        wants_json = sampling.response_format is not None and sampling.response_format.schema_of_answer is not None
        if wants_json and not self._engine.supports_response_format:
            raise RequestError(
                f"response_format: ENGINE={self._settings.engine} supports only text; ENGINE=genai supports all formats"
            )
        conversation = request.conversation
        for number, message in enumerate(conversation):
            if "\0" in message["content"]:
                raise RequestError(f"messages.{number}.content: contains a null byte")
        logger.debug("conversation: %r", conversation)
        # Tokenizing takes far more memory than the text, so hopelessly long texts are refused first.
        advice = _advice(conversation)
        size = sum(len(message["content"].encode()) for message in conversation)
        if size > self._max_bytes:
            raise _too_long(counted(size, "byte"), _NEVER_ALLOWED, advice)
        [prompt] = self._encode([self._with_system_prompt(conversation)], request.chat_template_kwargs)
        self._check_conversation(len(prompt), advice)
        return self.generate([prompt], sampling, observation)

    def generate(
        self, prompts: list[list[int]], sampling: SamplingParams, observation: Observation | None = None
    ) -> Generation:
        """Complete prompts given as token ids; TooLongError if they are too long."""
        observation = observation or Observation()
        self._check_batch(prompts)
        budgets = [min(sampling.max_tokens, self._context_length - len(prompt)) for prompt in prompts]
        steps = self._admit_and_generate(Work(prompts, budgets, sampling, self._stop_token_ids), observation)
        ends = Ends(self._stop_token_ids, self._special_token_ids, sampling.stop)
        return Generation(steps, [len(prompt) for prompt in prompts], self.tokenizer, ends, observation)

    def close(self) -> None:
        """Stop all running requests and release the model."""
        self._resources.close()

    def _with_system_prompt(self, conversation: list[Message]) -> list[Message]:
        if self._settings.system_prompt is None or conversation[0]["role"] == "system":
            return conversation
        return [{"role": "system", "content": self._settings.system_prompt}, *conversation]

    def _encode(self, conversations: list[list[Message]], variables: dict[str, Any]) -> list[list[int]]:
        texts = [message["content"] for conversation in conversations for message in conversation]
        long = sum(map(len, texts)) + len(json.dumps(variables)) > _LONG_TEXT
        with self._long_texts_lock if long else nullcontext():
            try:
                return [self._encoder.encode(conversation, variables) for conversation in conversations]
            except RecursionError:
                raise RequestError("chat_template_kwargs: is nested too deeply") from None

    def _check_batch(self, prompts: list[list[int]]) -> None:
        longest = max(map(len, prompts))
        if longest >= self._context_length:
            raise TooLongError(
                f"a prompt has {longest} tokens, but prompt and completion share a context of {self._context_length}",
                "shorten the prompt",
            )
        total, limit = longest * len(prompts), self._settings.max_prompt_tokens_per_request
        if total > limit:
            raise TooLongError(
                f"a batch of {counted(len(prompts), 'prompt')} of up to {counted(longest, 'token')} has {total}, but "
                f"MAX_PROMPT_TOKENS_PER_REQUEST is {limit}",
                "send fewer or shorter prompts, or raise the limit",
            )

    def _check_conversation(self, length: int, advice: str) -> None:
        limit = self._settings.max_prompt_tokens_per_request
        tokens = counted(length, "token")
        if length >= self._context_length:
            raise _too_long(tokens, f"the model's context, answer included, is {self._context_length}", advice)
        if length > limit:
            raise _too_long(tokens, f"MAX_PROMPT_TOKENS_PER_REQUEST is {limit}", f"{advice}, or raise the limit")

    def _create_admission(self) -> Admission:
        token_bytes = self._engine.cache_bytes_per_token
        return Admission(
            self._settings.max_concurrent_requests,
            self._settings.max_queued_requests,
            self._settings.queue_timeout_s,
            self._settings.kv_cache_gb * 2**30 // token_bytes if token_bytes else math.inf,
        )

    def _cache_usage(self) -> float:
        usage = self._engine.cache_usage
        return self._admission.reserved_share if usage is None else usage

    def _admit_and_generate(self, work: Work, observation: Observation) -> Generator[Step]:
        tokens = max(map(len, work.prompts)) * len(work.prompts) + sum(work.budgets)
        observation.queued()
        with self._admission.place(tokens) as place:
            while not place.wait(KEEPALIVE_S):
                yield [NewTokens() for _ in work.prompts]
            observation.admitted()
            yield from self._engine.generate(work)


def _open_metrics(settings: Settings) -> "Metrics | None":
    if settings.llm_metrics_port is None:
        return None
    from text_generation.serve.metrics import Metrics

    return Metrics(settings.served_model, settings.llm_metrics_address, settings.llm_metrics_port)


def _advice(conversation: list[Message]) -> str:
    if sum(message["role"] != "system" for message in conversation) > 1:
        return "leave out the oldest turns"
    return f"shorten the message{'s' * (len(conversation) > 1)}"


def _too_long(length: str, reason: str, advice: str) -> TooLongError:
    # From the first words, clients know that leaving out turns may help.
    return TooLongError(f"too long: the conversation has {length}, but {reason}", advice)
