"""What an engine is: it takes token ids and gives a Generation, from which the completions come piece by piece."""

import json
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import replace
from importlib.metadata import version

from tokenizers import Tokenizer
from transformers import AutoConfig, GenerationConfig, PretrainedConfig

from text_generation import model_folder
from text_generation.errors import RequestError
from text_generation.serve.admission import Admission
from text_generation.serve.detokenizer import Detokenizer
from text_generation.serve.prompts import ChatPrompts
from text_generation.serve.sampling import SamplingParams
from text_generation.serve.settings import Settings
from text_generation.tokenizer_file import check_vocabulary

logger = logging.getLogger(__name__)

# New token ids of one step: a list per prompt, empty where the prompt got none.
Step = list[list[int]]

# A request that waits has an empty step this often, in seconds: a server learns that a client has left only when it
# sends it something.
KEEPALIVE_S = 1.0


class Generation(Iterator[list[str]]):
    """The completions of one request in the making: each step gives a list of text pieces, a piece per prompt.

    While the request waits, each step is empty. It is a context manager too: leaving it, however, stops the engine's
    work for it within one token.
    """

    def __init__(self, steps: Generator[Step], count: int, tokenizer: Tokenizer, special_token_ids: frozenset[int]):
        self._steps = steps
        self._special_token_ids = special_token_ids
        self._detokenizers = [Detokenizer(tokenizer) for _ in range(count)]
        self._started = time.monotonic()
        self.token_ids: Step = [[] for _ in range(count)]

    @property
    def token_count(self) -> int:
        """Tokens generated so far for all prompts together, without special tokens."""
        return sum(map(len, self.token_ids))

    def __next__(self) -> list[str]:
        for step in self._steps:
            return [self._decode(row, token_ids) for row, token_ids in enumerate(step)]
        tails = [detokenizer.flush() for detokenizer in self._detokenizers]
        if any(tails):
            return tails
        raise StopIteration

    def join(self) -> list[str]:
        """Run to the end; the whole completions, one per prompt."""
        pieces = [[] for _ in self.token_ids]
        for step in self:
            for prompt_pieces, piece in zip(pieces, step, strict=True):
                prompt_pieces.append(piece)
        return list(map("".join, pieces))

    def __enter__(self) -> "Generation":
        return self

    def __exit__(self, *_: object) -> None:
        self._steps.close()
        seconds = time.monotonic() - self._started
        logger.info("%d prompts: %d tokens generated in %.2f s", len(self.token_ids), self.token_count, seconds)

    def _decode(self, row: int, token_ids: list[int]) -> str:
        token_ids = [token_id for token_id in token_ids if token_id not in self._special_token_ids]
        self.token_ids[row] += token_ids
        return self._detokenizers[row].push(token_ids)


class Engine(ABC):
    """A loaded model that serves requests from any number of threads."""

    def __init__(self, settings: Settings, tokenizer: Tokenizer):
        self._settings = settings
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder().items()
        self._special_token_ids = frozenset(token_id for token_id, token in added if token.special)
        config = AutoConfig.from_pretrained(settings.model_path, trust_remote_code=False)
        self._context_length = config.max_position_embeddings
        check_vocabulary(tokenizer, config.vocab_size, settings.model_path)
        eos = GenerationConfig.from_pretrained(settings.model_path).eos_token_id
        self._stop_token_ids = frozenset(eos if isinstance(eos, list) else [] if eos is None else [eos])
        self._admission = Admission(
            settings.max_concurrent_requests,
            settings.max_queued_requests,
            settings.queue_timeout_s,
            # GenAI's scheduler keeps to the size of its cache by itself.
            math.inf if settings.engine == "genai" else settings.kv_cache_gb * 2**30 // kv_cache_bytes(config),
        )

    def submit(self, prompts: list[list[int]], sampling: SamplingParams) -> Generation:
        """Ask for completions of one or more prompts, given as token ids.

        RequestError where a prompt leaves no room in the model's context or the prompts together are too long.
        Iterating raises BusyError where no place becomes free, and whatever goes wrong in the engine.
        """
        longest = max(map(len, prompts))
        if longest >= self._context_length:
            raise RequestError(
                f"a prompt has {longest} tokens, but prompt and completion share a context of {self._context_length}: "
                "shorten the prompt"
            )
        total, limit = longest * len(prompts), self._settings.max_prompt_tokens_per_request
        if total > limit:
            raise RequestError(
                f"{len(prompts)} prompts of up to {longest} tokens make a batch of {total}, but "
                f"MAX_PROMPT_TOKENS_PER_REQUEST is {limit}: send fewer or shorter prompts at once"
            )
        budgets = [min(sampling.max_new_tokens, self._context_length - len(prompt)) for prompt in prompts]
        steps = self._in_turn(prompts, budgets, sampling)
        return Generation(steps, len(prompts), self._tokenizer, self._special_token_ids)

    def _in_turn(self, prompts: list[list[int]], budgets: list[int], sampling: SamplingParams) -> Generator[Step]:
        with self._admission.place(max(map(len, prompts)) * len(prompts) + sum(budgets)) as place:
            while not place.wait(KEEPALIVE_S):
                yield [[] for _ in prompts]
            yield from self._generate(prompts, budgets, sampling)

    @abstractmethod
    def _generate(self, prompts: list[list[int]], budgets: list[int], sampling: SamplingParams) -> Generator[Step]:
        """Generate up to `budgets` tokens for each prompt; closing the generator gives up all that it holds."""

    @abstractmethod
    def close(self) -> None:
        """Stop the engine and end what runs on it."""


def kv_cache_bytes(config: PretrainedConfig) -> int:
    """Bytes that a token takes in the key-value cache, at the 24 bits that its 8 bits, their upkeep and the room that
    the cache grows into were measured to come to (SECURITY.md).
    """
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return config.num_hidden_layers * 2 * heads * head_size * 3


def load(settings: Settings) -> tuple[ChatPrompts, Engine]:
    """Chat prompts and engine for the model folder that the settings name, ready to answer.

    ModelFolderError where the folder holds no whole model, or one that can't be run.
    """
    info = model_folder.check(settings.model_path)
    if info is not None:
        _warn_of_differences(info, settings)
    if settings.engine == "genai":
        from text_generation.serve.genai_engine import GenaiEngine as ChosenEngine
    else:
        from text_generation.serve.optimum_engine import OptimumEngine as ChosenEngine
    try:
        prompts = ChatPrompts(settings)
        engine = ChosenEngine(settings, prompts.tokenizer)
        try:
            # The first inference compiles kernels, and proves that model and settings work before anyone is told so.
            engine.submit(prompts.encode(["Hello"]), replace(settings.sampling, max_new_tokens=2)).join()
        except BaseException:
            engine.close()
            raise
    except RequestError as error:
        raise model_folder.ModelFolderError(
            f"SYSTEM_PROMPT and limits leave no room for a question to {settings.model_path}: {error}"
        ) from error
    except Exception as error:
        cause = " ".join(str(error).split())
        raise model_folder.ModelFolderError(
            f"ENGINE={settings.engine} can't run {settings.model_path} on DEVICE={settings.device} with "
            f"OV_CONFIG={json.dumps(settings.ov_config)} and KV_CACHE_GB={settings.kv_cache_gb}: {cause}"
        ) from error
    name = settings.selected_model or (info.model if info else "the model")
    logger.info("%s in %s is ready (ENGINE=%s, DEVICE=%s)", name, settings.model_path, settings.engine, settings.device)
    return prompts, engine


def _warn_of_differences(info: model_folder.ModelInfo, settings: Settings) -> None:
    if settings.selected_model not in (None, info.model):
        logger.warning(
            "SELECTED_MODEL is %s, but %s holds %s, which is what answers",
            settings.selected_model,
            settings.model_path,
            info.model,
        )
    made_by, running = info.packages.get("openvino"), version("openvino")
    if made_by != running:
        logger.warning(
            "%s was made by OpenVINO %s and runs on %s: if it fails or answers oddly, make it again with "
            "download_model.py and compress_model.py of this release",
            settings.model_path,
            made_by,
            running,
        )
