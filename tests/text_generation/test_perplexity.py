from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from text_generation.model_folder import ModelFolderError
from text_generation.perplexity import load_tokenizer, negative_log_likelihood


def test_tokenizer_takes_the_text_as_it_is(tmp_path: Path) -> None:
    tokenizer = Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=5)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path).encode("a b b").ids == [0, 1, 1]


@pytest.mark.parametrize("content", [b"\xff" * 100, b"{}", b"[" * 10_000])
def test_damaged_tokenizer_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelFolderError, match=r"tokenizer\.json is damaged .*: copy or make the folder again"):
        load_tokenizer(tmp_path)


def test_likelihood_of_known_probabilities() -> None:
    probabilities = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], np.float32)
    logits = np.log(probabilities) + np.array([[1000.0], [-1000.0]], np.float32)  # softmax takes no notice
    result = negative_log_likelihood(logits, np.array([1, 2]))
    assert result == pytest.approx(-np.log([0.25, 0.8]), abs=1e-3)
