"""Tiny checkpoints with random weights, of many architectures, in Hugging Face's format."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE

TEXT = [
    "The capital of the country is the largest city of the country, by the sea.",
    "A client asks a question; the server answers it, one token after another.",
    "for number in range(3):\n    print(number * number)",
    "Grüße, déjà vu, 你好, 😀",
] * 20
SPECIAL = ("<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
TOKENIZER_CONFIG = {
    "tokenizer_class": "LlamaTokenizer",
    "legacy": False,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "chat_template": TEMPLATE,
}
VOCABULARY = 480
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 160,  # not divisible into groups of 128 or 64 weights
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "initializer_range": 0.3,  # for logits so far apart that rounding does not affect the choice of tokens
}


def byte_level_tokenizer() -> Tokenizer:
    """Return a tokenizer like those of GPT-2, Llama 3 and Qwen: every byte is a token."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(tokenizer, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def sentencepiece_tokenizer() -> Tokenizer:
    """Return a tokenizer like those of Llama 2 and Mistral, converted from sentencepiece, with ▁ and byte tokens."""
    tokenizer = Tokenizer(BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return _trained(tokenizer, tokens=[f"<0x{byte:02X}>" for byte in range(256)])


def _trained(tokenizer: Tokenizer, tokens: list[str] = (), **options: Any) -> Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[*SPECIAL, *tokens], show_progress=False, **options
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    if tokens:  # the trainer treats the byte tokens as special
        stated = json.loads(tokenizer.to_str())
        stated["added_tokens"] = [token for token in stated["added_tokens"] if token["content"] in SPECIAL]
        tokenizer = Tokenizer.from_str(json.dumps(stated))
    return tokenizer


def write_checkpoint(
    folder: Path,
    model_type: str = "llama",
    tokenizer: Tokenizer | None = None,
    tokenizer_config: dict[str, Any] = TOKENIZER_CONFIG,
    dtype: torch.dtype = torch.float32,
    **sizes: Any,
) -> Path:
    """Write a checkpoint with a model of this type; its sizes are SIZES, overridden by those given here."""
    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model(model_type, **SIZES | sizes)
    model = transformers.AutoModelForCausalLM.from_config(config).to(dtype)
    model.save_pretrained(folder)
    (tokenizer or byte_level_tokenizer()).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    return folder
