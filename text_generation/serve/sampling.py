"""How the next token is drawn."""

from dataclasses import dataclass

import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """What one request asks of both engines; the names and meanings are those of Hugging Face's GenerationConfig.

    `temperature` 0 turns sampling off: the likeliest token is taken. `top_k` 0 and `top_p` 1 turn those filters off.
    `seed` None draws a new one. `ignore_eos` goes on to `max_new_tokens`, so that benchmark runs compare.
    """

    max_new_tokens: int = 1024
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 50
    repetition_penalty: float = 1.1
    seed: int | None = None
    ignore_eos: bool = False


class Sampler:
    """Draws the next tokens of one request with a random generator of its own, so a seed repeats under concurrency."""

    def __init__(self, params: SamplingParams):
        self._top_k = 1 if params.temperature == 0 else params.top_k
        self._draws = self._top_k != 1
        self._penalty = None
        if params.repetition_penalty != 1.0:
            self._penalty = RepetitionPenaltyLogitsProcessor(params.repetition_penalty)
        self._warpers = LogitsProcessorList()
        if params.temperature not in (0, 1):
            self._warpers.append(TemperatureLogitsWarper(float(params.temperature)))
        if params.top_p < 1:
            self._warpers.append(TopPLogitsWarper(params.top_p))
        self._random = torch.Generator()
        if params.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(params.seed)

    @torch.inference_mode()
    def __call__(self, history: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Next token ids, int64 [n], from the tokens so far, int64 [n, length], and float logits [n, vocabulary].

        The filters see the top-k candidates alone, sorted: the result is distributed as with Hugging Face's processors
        over the whole vocabulary, at a fraction of the work. The draw is the Gumbel-max trick (Gumbel 1954): the
        argmax of log-probabilities plus Gumbel noise is an exact sample.
        """
        if self._penalty is not None:
            logits = self._penalty(history, logits)
        if not self._draws:
            return logits.argmax(dim=-1)
        candidates = None
        if 0 < self._top_k < logits.shape[-1]:
            logits, candidates = logits.topk(self._top_k)
        logits = self._warpers(history, logits)
        noise = torch.empty_like(logits).exponential_(generator=self._random).log_().neg_()
        chosen = (logits + noise).argmax(dim=-1, keepdim=True)
        return (chosen if candidates is None else candidates.gather(-1, chosen)).squeeze(-1)
