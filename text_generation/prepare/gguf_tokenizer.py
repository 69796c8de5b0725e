"""A byte-level BPE tokenizer built from the fields of a GGUF file.

For SmolLM2, `AutoTokenizer.from_pretrained(..., gguf_file=...)` of transformers 5.5 returns a broken tokenizer: its
text is full of byte symbols and the model answers nonsense.
Field names and token types: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from pathlib import Path
from typing import Any

from gguf import GGUFReader, TokenType
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast


def from_gguf(path: Path, fallback_template: str | None = None) -> PreTrainedTokenizerFast:
    """Build the tokenizer that the model in the GGUF file was trained with.

    Raises ValueError if the file's tokenizer is not a byte-level BPE with SmolLM's pre-tokenization.
    """
    fields = GGUFReader(path).fields

    def field(name: str) -> Any:
        return fields[f"tokenizer.{name}"].contents()

    kind = field("ggml.model"), field("ggml.pre")
    if kind != ("gpt2", "smollm"):
        raise ValueError(f"{path}: unsupported tokenizer kind {kind}, only ('gpt2', 'smollm') is supported")

    tokens = field("ggml.tokens")
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ")) for merge in field("ggml.merges")]
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, token_type in zip(tokens, field("ggml.token_type"), strict=True)
            if token_type == TokenType.CONTROL
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[field("ggml.bos_token_id")],
        eos_token=tokens[field("ggml.eos_token_id")],
        pad_token=tokens[field("ggml.padding_token_id")],
        unk_token=tokens[field("ggml.unknown_token_id")],
        chat_template=field("chat_template") or fallback_template,
        model_max_length=fields["llama.context_length"].contents(),
        clean_up_tokenization_spaces=False,
    )
