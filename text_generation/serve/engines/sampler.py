"""Draws tokens for the Optimum engine."""

import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from text_generation.serve.sampling import SamplingParams


class Sampler:
    """Draws the next tokens of one request with a random generator of its own, so a seed repeats under concurrency."""

    def __init__(self, params: SamplingParams):
        self._params = params
        self._repetition = None
        if params.repetition_penalty != 1.0:
            self._repetition = RepetitionPenaltyLogitsProcessor(params.repetition_penalty)
        self._warpers = LogitsProcessorList()
        if params.temperature != 1:
            self._warpers.append(TemperatureLogitsWarper(params.temperature or 1.0))
        if params.top_p < 1:
            self._warpers.append(TopPLogitsWarper(params.top_p))
        if params.min_p > 0:
            self._warpers.append(MinPLogitsWarper(params.min_p))
        self._random = torch.Generator()
        if params.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(params.seed)

    @torch.inference_mode()
    def __call__(self, prompts_and_completions: torch.Tensor, logits: torch.Tensor, generated: int) -> torch.Tensor:
        """Next token ids, int64 [n], from the tokens so far, int64 [n, length], of which the last `generated` are the
        completions', and float logits [n, vocabulary].

        The filters see the top-k candidates alone, sorted: the result is distributed as with Hugging Face's processors
        over the whole vocabulary, at a fraction of the work. The draw is the Gumbel-max trick (Gumbel 1954): the
        argmax of log-probabilities plus Gumbel noise is an exact sample.
        """
        logits = self._penalize(prompts_and_completions, logits, generated)
        if self._params.greedy:
            return logits.argmax(dim=-1)
        candidates = None
        if 0 < self._params.top_k < logits.shape[-1]:
            logits, candidates = logits.topk(self._params.top_k)
        # transformers asks for types that no function of torch returns
        logits = self._warpers(prompts_and_completions, logits)  # type: ignore[arg-type]
        noise = torch.empty_like(logits).exponential_(generator=self._random).log_().neg_()
        chosen = (logits + noise).argmax(dim=-1, keepdim=True)
        return (chosen if candidates is None else candidates.gather(-1, chosen)).squeeze(-1)

    def _penalize(self, history: torch.Tensor, logits: torch.Tensor, generated: int) -> torch.Tensor:
        if self._repetition is not None:
            logits = self._repetition(history, logits)
        presence, frequency = self._params.presence_penalty, self._params.frequency_penalty
        if generated and (presence or frequency):
            # As OpenAI documents them: of the completion's own tokens, not the prompt's.
            completions = history[:, history.shape[1] - generated :]
            counts = torch.zeros_like(logits).scatter_add_(
                1, completions, torch.ones_like(completions, dtype=logits.dtype)
            )
            logits = logits - presence * (counts > 0) - frequency * counts
        return logits


@torch.inference_mode()
def chosen_logprobs(logits: torch.Tensor, token_ids: torch.Tensor) -> list[float]:
    """The log-probability of each row's token, int64 [n], under float logits [n, vocabulary]."""
    return logits.log_softmax(dim=-1).gather(-1, token_ids[:, None]).squeeze(-1).tolist()
