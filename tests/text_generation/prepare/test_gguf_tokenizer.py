from pathlib import Path

import pytest
from gguf import GGUFWriter, TokenType
from tokenizers import pre_tokenizers

from text_generation.prepare import gguf_tokenizer

MERGES = ["c a", "ca t", "Ġ cat", "Ã ©", "2 0"]


def write_gguf(path: Path, kind: str = "smollm") -> Path:
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens += [merge.replace(" ", "") for merge in MERGES]
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(kind)
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_tokens_of_the_file(tmp_path: Path) -> None:
    tokenizer = gguf_tokenizer.from_gguf(write_gguf(tmp_path / "model.gguf"))
    assert tokenizer.tokenize("cat cat 2026é") == ["cat", "Ġcat", "Ġ", "2", "0", "2", "6", "Ã©"]
    assert tokenizer.tokenize("<|im_start|>cat<|im_end|>") == ["<|im_start|>", "cat", "<|im_end|>"]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.model_max_length) == (2, 2, 512)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "cat"}], tokenize=False) == "cat"


@pytest.mark.parametrize("text", ["Grüße, 世界! 👩‍🚀\n\n  two spaces\tand 3.14", "", " ", "don't <s>"])
def test_text_comes_back(tmp_path: Path, text: str) -> None:
    tokenizer = gguf_tokenizer.from_gguf(write_gguf(tmp_path / "model.gguf"))
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_another_kind_of_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="llama-bpe"):
        gguf_tokenizer.from_gguf(write_gguf(tmp_path / "model.gguf", "llama-bpe"))
