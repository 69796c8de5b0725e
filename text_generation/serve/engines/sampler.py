"""Samples tokens for the Optimum engine."""

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
    """Samples the next tokens of one request with its own random generator, so that a seed works under concurrency."""

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
        """Return the next token ids, int64 [n], given the tokens so far, int64 [n, length], of which the last
        `generated` belong to the completions, and float logits [n, vocabulary].

        The filters see only the top-k candidates, sorted: the result has the same distribution as with Hugging Face's
        processors over the whole vocabulary, at a fraction of the work. Sampling uses the Gumbel-max trick (Gumbel
        1954): the argmax of log-probabilities plus Gumbel noise is an exact sample.
        """
        logits = self._penalize(prompts_and_completions, logits, generated)
        if self._params.greedy:
            return logits.argmax(dim=-1)
        candidates = None
        if 0 < self._params.top_k < logits.shape[-1]:
            logits, candidates = logits.topk(self._params.top_k)
        logits = self._warpers(prompts_and_completions, logits)
        noise = torch.empty_like(logits).exponential_(generator=self._random).log_().neg_()
        chosen = (logits + noise).argmax(dim=-1, keepdim=True)
        return (chosen if candidates is None else candidates.gather(-1, chosen)).squeeze(-1)

    def _penalize(self, history: torch.Tensor, logits: torch.Tensor, generated: int) -> torch.Tensor:
        if self._repetition is not None:
            logits = self._repetition(history, logits)
        presence, frequency = self._params.presence_penalty, self._params.frequency_penalty
        if generated and (presence or frequency):
            # As documented by OpenAI: for the completion's own tokens, not the prompt's.
            completions = history[:, history.shape[1] - generated :]
            counts = torch.zeros_like(logits).scatter_add_(
                1, completions, torch.ones_like(completions, dtype=logits.dtype)
            )
            logits = logits - presence * (counts > 0) - frequency * counts
        return logits


@torch.inference_mode()
def chosen_logprobs(logits: torch.Tensor, token_ids: torch.Tensor) -> list[float]:
    """Return the log-probability of each row's token, int64 [n], given float logits [n, vocabulary]."""
    return logits.log_softmax(dim=-1).gather(-1, token_ids[:, None]).squeeze(-1).tolist()
