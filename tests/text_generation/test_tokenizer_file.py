import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from text_generation import tokenizer_file
from text_generation.chat_template import ChatTemplate
from text_generation.model_folder import ModelFolderError


@pytest.fixture
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a"))
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer


@pytest.fixture
def folder(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A folder whose model has the two words."""
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
    with pytest.raises(ModelFolderError, match=r"tokenizer\.json is damaged .*: copy or recreate the folder"):
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


class TestTokensOfChats:
    """A model with three tokens, whose tokenizer has more."""

    def check(self, tokenizer: str, folder: Path, template: str = "", **config) -> None:
        template += "{{ messages[-1]['content'] }}"
        (folder / "tokenizer.json").write_text(tokenizer)
        (folder / "config.json").write_text(json.dumps({"vocab_size": 3}))
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template} | config))
        tokenizer_file.check_chat(tokenizer_file.load(folder), ChatTemplate.load(folder), folder)

    def test_unused_ones_may_be_beyond(self, tokenizer: Tokenizer, folder: Path) -> None:
        tokenizer.add_special_tokens(["<end>", "<pad>"])
        self.check(tokenizer.to_str(), folder, eos_token="<end>", pad_token="<pad>")

    @pytest.mark.parametrize(
        "template",
        [
            "<far>",
            "{% if messages[0]['role'] == 'system' %}<far>{% endif %}",
            "{% for message in messages %}{% if message['role'] == 'assistant' %}<far>{% endif %}{% endfor %}",
            "{{ pad_token }}",
        ],
    )
    def test_the_templates_own(self, tokenizer: Tokenizer, folder: Path, template: str) -> None:
        tokenizer.add_special_tokens(["<end>", "<far>"])
        with pytest.raises(ModelFolderError, match=r"use the token '<far>' \(3\), but the model has only 3 tokens"):
            self.check(tokenizer.to_str(), folder, template, pad_token="<far>")

    def test_the_tokenizers_own(self, tokenizer: Tokenizer, folder: Path) -> None:
        tokenizer.add_special_tokens(["<end>", "<start>"])
        tokenizer.post_processor = TemplateProcessing("<start> $A", special_tokens=[("<start>", 3)])
        with pytest.raises(ModelFolderError, match="use the token '<start>'"):
            self.check(tokenizer.to_str(), folder)

    @pytest.mark.parametrize("stated", ["<end>", {"content": "<end>", "lstrip": False}])
    def test_the_end_token(self, tokenizer: Tokenizer, folder: Path, stated: str | dict) -> None:
        tokenizer.add_special_tokens(["<start>", "<end>"])
        with pytest.raises(ModelFolderError, match="use the token '<end>'"):
            self.check(tokenizer.to_str(), folder, eos_token=stated)

    @pytest.mark.parametrize(("stated_id", "reason"), [(7, "has only 3 tokens"), (2, "the id 2, but leaves a gap")])
    def test_id_that_the_library_does_not_keep(
        self, tokenizer: Tokenizer, folder: Path, stated_id: int, reason: str
    ) -> None:
        tokenizer.add_special_tokens(["<far>"])
        made = json.loads(tokenizer.to_str())
        del made["model"]["vocab"]["b"]  # so that the library numbers from one token fewer
        made["added_tokens"][0]["id"] = stated_id
        with pytest.raises(ModelFolderError, match=reason):
            self.check(json.dumps(made), folder, "<far>")
