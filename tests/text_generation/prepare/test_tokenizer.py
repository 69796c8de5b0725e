"""The conversion of a checkpoint's tokenizer and chat template, and the errors for unusable ones."""

import json
import shutil
from pathlib import Path

import openvino as ov
import pytest
from tokenizers import Tokenizer

from tests.support.checkpoints import TOKENIZER_CONFIG, VOCABULARY, byte_level_tokenizer, sentencepiece_tokenizer
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
