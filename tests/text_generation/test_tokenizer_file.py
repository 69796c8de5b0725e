import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from text_generation import tokenizer_file
from text_generation.model_folder import ModelFolderError


@pytest.fixture
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a"))
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer


@pytest.fixture
def folder(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A folder whose model knows the two words."""
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 2}))
    return tmp_path


def test_takes_the_text_as_it_is(tokenizer: Tokenizer, folder: Path) -> None:
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=5)
    tokenizer.save(str(folder / "tokenizer.json"))
    assert tokenizer_file.load(folder).encode("a b b").ids == [0, 1, 1]


@pytest.mark.parametrize("content", [b"\xff" * 100, b"{}", b"[" * 10_000])
def test_damaged_tokenizer_is_named(folder: Path, content: bytes) -> None:
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelFolderError, match=r"tokenizer\.json is damaged .*: copy or make the folder again"):
        tokenizer_file.load(folder)


def test_tokenizer_of_another_model(tokenizer: Tokenizer, folder: Path) -> None:
    tokenizer.add_tokens(["c"])
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(ModelFolderError, match=r"tokenizer\.json is another model's: 'c' is beyond .* 2 tokens"):
        tokenizer_file.load(folder)


def test_special_tokens_may_be_more_than_the_model_knows(tokenizer: Tokenizer, folder: Path) -> None:
    tokenizer.add_special_tokens(["<pad>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    assert tokenizer_file.load(folder).encode("b").ids == [1]
