"""The conversion of a checkpoint's tokenizer and chat template, and the errors for unusable ones."""

import json
import shutil
from pathlib import Path

import openvino as ov
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from tests.support.checkpoints import TOKENIZER_CONFIG, VOCABULARY, byte_level_tokenizer, sentencepiece_tokenizer
from text_generation import tokenizer_file
from text_generation.chat_template import ChatTemplate
from text_generation.model_folder import ModelFolderError
from text_generation.prepare import tokenizer
from text_generation.prepare.checkpoint import CheckpointError

TEXTS = ["The capital of the country", "  two spaces\n\n and lines\t", "déjà vu 你好 😀", "</s> <|user|>Hi"]
REFUSES_SYSTEM = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('no system, please') }}"
    "{% endif %}{{ message['content'] }}{% endfor %}"
)


def write(folder: Path, made: Tokenizer, vocabulary: int = VOCABULARY, **config) -> Path:
    """Write a checkpoint folder without weights; a tokenizer_config key that is None is omitted."""
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    stated = {name: value for name, value in (TOKENIZER_CONFIG | config).items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(stated))
    (folder / "config.json").write_text(json.dumps({"vocab_size": vocabulary}))
    return folder


def taken(checkpoint: Path, folder: Path, fallback: str | None = None) -> Path:
    folder.mkdir()
    tokenizer.copy_tokenizer(checkpoint, folder, fallback)
    shutil.copy(checkpoint / "config.json", folder)
    return folder


@pytest.mark.parametrize("made", [byte_level_tokenizer, sentencepiece_tokenizer])
def test_files_are_kept_and_openvino_has_the_same_tokens(tmp_path: Path, made) -> None:
    """The class is Llama's, for which AutoTokenizer would build another tokenizer."""
    checkpoint = write(tmp_path / "checkpoint", made(), legacy=False, add_prefix_space=True)
    folder = taken(checkpoint, tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (folder / name).read_bytes() == (checkpoint / name).read_bytes()
    assert tokenizer.check_chat(folder) == []

    tokenizer.write_openvino_tokenizer(folder)
    published = Tokenizer.from_file(str(folder / "tokenizer.json"))
    core = ov.Core()
    encode = core.compile_model(folder / "openvino_tokenizer.xml", "CPU")
    decode = core.compile_model(folder / "openvino_detokenizer.xml", "CPU")
    for text in TEXTS:
        ids = published.encode(text).ids
        assert encode([text])["input_ids"][0].tolist() == ids
        assert decode([ids])[0][0] == published.decode(ids)


@pytest.mark.parametrize(
    ("file", "named"), [("tokenizer.model", "only a sentencepiece model"), ("x", "no tokenizer.js")]
)
def test_no_tokenizer_json(tmp_path: Path, file: str, named: str) -> None:
    checkpoint = write(tmp_path / "checkpoint", byte_level_tokenizer())
    (checkpoint / "tokenizer.json").rename(checkpoint / file)
    with pytest.raises(CheckpointError, match=f"{named}.*tokenizer.json is required"):
        taken(checkpoint, tmp_path / "model")


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "<|im_start|>assistant\n"
)
START, END = (byte_level_tokenizer().get_vocab_size() + number for number in (0, 1))
DECODER = {
    str(token_id): {"content": token, "special": True, "normalized": False, "lstrip": False, "rstrip": False}
    for token_id, token in ((START, "<|im_start|>"), (END, "<|im_end|>"))
}


class TestTokensThatTokenizerJsonLacks:
    """Tokens of chats that only other files of the tokenizer name, as in older checkpoints."""

    @pytest.mark.parametrize(
        ("config", "files"),
        [
            ({"eos_token": "<|im_end|>", "added_tokens_decoder": DECODER}, {}),
            ({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]}, {}),
            ({"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]}, {}),
            ({"extra_special_tokens": {"start_token": "<|im_start|>", "end_token": "<|im_end|>"}}, {}),
            ({"sep_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>", "__type": "AddedToken"}}, {}),
            (
                {},
                {
                    "special_tokens_map.json": {
                        "eos_token": {"content": "<|im_end|>", "lstrip": False},
                        "additional_special_tokens": ["<|im_start|>"],
                    }
                },
            ),
            ({}, {"added_tokens.json": {"<|im_start|>": START, "<|im_end|>": END}}),
        ],
        ids=["decoder", "additional", "extra list", "extra object", "named", "special tokens map", "added tokens"],
    )
    def test_are_added(self, tmp_path: Path, config: dict, files: dict[str, dict]) -> None:
        checkpoint = write(tmp_path / "checkpoint", byte_level_tokenizer(), chat_template=CHATML, **config)
        for name, content in files.items():
            (checkpoint / name).write_text(json.dumps(content))
        folder = taken(checkpoint, tmp_path / "model")
        tokenizer.complete_tokenizer(folder)
        tokenizer.check_chat(folder)
        prompt = ChatTemplate.load(folder).render([{"role": "user", "content": "Hi"}])
        expected = PreTrainedTokenizerFast.from_pretrained(checkpoint).encode(prompt)
        ids = tokenizer_file.load(folder).encode(prompt).ids
        assert ids == expected
        assert {START, END} <= set(ids)

    @pytest.mark.parametrize("ignored", [{}, {"sep_token": "<|sep|>"}])
    def test_none_leave_the_file_as_it_is(self, tmp_path: Path, ignored: dict) -> None:
        """transformers does not read special_tokens_map.json if there is an added_tokens_decoder."""
        checkpoint = write(tmp_path / "checkpoint", byte_level_tokenizer(), added_tokens_decoder={})
        (checkpoint / "special_tokens_map.json").write_text(json.dumps(ignored))
        folder = taken(checkpoint, tmp_path / "model")
        published = (folder / "tokenizer.json").read_bytes()
        tokenizer.complete_tokenizer(folder)
        assert (folder / "tokenizer.json").read_bytes() == published

    def test_beyond_the_embedding(self, tmp_path: Path) -> None:
        checkpoint = write(
            tmp_path / "model", byte_level_tokenizer(), START, chat_template=CHATML, added_tokens_decoder=DECODER
        )
        tokenizer.complete_tokenizer(checkpoint)
        with pytest.raises(
            ModelFolderError, match=rf"use the token '<\|im_start\|>' \({START}\), but the model has only"
        ):
            tokenizer.check_chat(checkpoint)

    @pytest.mark.parametrize(
        ("config", "reason"),
        [
            ({"added_tokens_decoder": {"470": DECODER[str(START)]}}, rf"the id 470, but .* it is {START}: use a chec"),
            ({"added_tokens_decoder": {"x": DECODER[str(START)]}}, "are damaged .*: copy or recreate"),
            (
                {"added_tokens_decoder": {"470": "<|im_start|>"}},
                "transformers can't add them .*: use another checkpoint",
            ),
            ({"extra_special_tokens": 5}, "are damaged .*: copy or recreate"),
        ],
    )
    def test_files_that_contradict_each_other(self, tmp_path: Path, config: dict, reason: str) -> None:
        folder = write(tmp_path / "model", byte_level_tokenizer(), **config)
        with pytest.raises(ModelFolderError, match=reason) as error:
            tokenizer.complete_tokenizer(folder)
        assert "\n" not in str(error.value)


def test_chat_template_of_its_own_or_the_fallback(tmp_path: Path) -> None:
    bare = write(tmp_path / "bare", byte_level_tokenizer(), chat_template=None)
    with pytest.raises(CheckpointError, match="has no chat template"):
        taken(bare, tmp_path / "refused")
    assert (taken(bare, tmp_path / "given", "FALLBACK") / "chat_template.jinja").read_text() == "FALLBACK"

    (bare / "chat_template.jinja").write_text("OWN")
    assert (taken(bare, tmp_path / "kept", "FALLBACK") / "chat_template.jinja").read_text() == "OWN"
    whole = write(tmp_path / "whole", byte_level_tokenizer())
    assert not (taken(whole, tmp_path / "untouched", "FALLBACK") / "chat_template.jinja").exists()


def test_template_that_refuses_a_system_message_is_told(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", byte_level_tokenizer(), chat_template=REFUSES_SYSTEM)
    [note] = tokenizer.check_chat(folder)
    assert "accepts no system message" in note
    assert "no system, please" in note


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% endif %}"
        "{% endfor %}{% endfor %}<|assistant|>",
        "{% for m in messages %}<|user|>{{ m.text }}{% endfor %}",
        "Hello <|assistant|>",
        "{# empty #}",
    ],
)
def test_template_that_leaves_out_the_question(tmp_path: Path, template: str) -> None:
    folder = write(tmp_path / "model", byte_level_tokenizer(), chat_template=template)
    with pytest.raises(ModelFolderError, match=r"leaves out the question.*: use the model's text version, or put"):
        tokenizer.check_chat(folder)


def test_empty_template_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", byte_level_tokenizer())
    (folder / "chat_template.jinja").write_text("")
    with pytest.raises(ModelFolderError, match="leaves out the question"):
        tokenizer.check_chat(folder)


def test_tokenizer_without_tokens_for_a_question(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", Tokenizer(BPE({"x": 0}, [])), chat_template="{{ messages[0]['content'] }}")
    with pytest.raises(ModelFolderError, match=r"tokenizer\.json turns a question into no tokens at all: use"):
        tokenizer.check_chat(folder)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('never') }}", "can't render a question: .*never"),
        ("{% for %}", "can't render a question"),
        (
            [{"name": "rag", "template": "RAG"}, {"name": "tool_use", "template": "TOOLS"}],
            r"several .*\(rag, tool_use\)",
        ),
    ],
)
def test_template_that_renders_nothing(tmp_path: Path, template, reason: str) -> None:
    folder = write(tmp_path / "model", byte_level_tokenizer(), chat_template=template)
    with pytest.raises(ModelFolderError, match=reason):
        tokenizer.check_chat(folder)
