"""The outputs of both chat graphs for a finished answer."""

import numpy as np
from pyovms import Tensor

from text_generation.serve.generation import Generation
from text_generation.serve.tensors import pack_texts


def text(name: str, content: str) -> Tensor:
    """Return one text, BYTES [1]."""
    return Tensor(name, pack_texts([content]), shape=[1], datatype="BYTES")


def summary(generation: Generation) -> list[Tensor]:
    """Return finish_reason BYTES [1], prompt_tokens and completion_tokens INT32 [1], and logprobs FP32 [n], one for
    each token of the completion, or none if they were not requested."""
    [completion], [prompt_tokens] = generation.completions, generation.prompt_lengths
    return [
        text("finish_reason", completion.finish_reason),
        Tensor("prompt_tokens", np.array([prompt_tokens], dtype=np.int32)),
        Tensor("completion_tokens", np.array([len(completion.token_ids)], dtype=np.int32)),
        Tensor("logprobs", np.array(completion.logprobs, dtype=np.float32)),
    ]
