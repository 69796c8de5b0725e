"""Copies a checkpoint's tokenizer and chat template into a model folder, unchanged."""

import shutil
from pathlib import Path

from text_generation import tokenizer_file
from text_generation.chat_template import ChatTemplate, Message, TemplateRefused
from text_generation.errors import first_line
from text_generation.model_folder import ModelFolderError
from text_generation.prepare.checkpoint import TOKENIZER_FILES, CheckpointError, read_json


def copy_tokenizer(checkpoint: Path, folder: Path, fallback_template: str | None) -> None:
    """Copy the tokenizer's files from a checkpoint folder to the model folder, byte for byte.

    `fallback_template` is used if the checkpoint has no chat template. Raises CheckpointError if there is no
    tokenizer.json or no template at all.
    """
    if not (checkpoint / "tokenizer.json").exists():
        found = "only a sentencepiece model" if (checkpoint / "tokenizer.model").exists() else "no tokenizer.json"
        raise CheckpointError(
            f"{checkpoint} has {found}, but tokenizer.json is required: use a revision, or a copy of the model, that "
            "has one"
        )
    for name in TOKENIZER_FILES:
        if (checkpoint / name).exists():
            shutil.copyfile(checkpoint / name, folder / name)
    if not _has_chat_template(checkpoint):
        if fallback_template is None:
            raise CheckpointError(
                f"{checkpoint} has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json): "
                "use the model's chat or instruct version"
            )
        (folder / "chat_template.jinja").write_text(fallback_template, encoding="utf-8")


def _has_chat_template(checkpoint: Path) -> bool:
    files = (checkpoint / f"chat_template.{kind}" for kind in ("jinja", "json"))
    return any(path.exists() for path in files) or bool(
        read_json(checkpoint / "tokenizer_config.json").get("chat_template")
    )


def check_chat(folder: Path) -> list[str]:
    """Check that the folder's template can render a question, using only tokens that the model has.

    Returns notes for the user, as sentences. Raises ModelFolderError.
    """
    template = ChatTemplate.load(folder)
    question: Message = {"role": "user", "content": "Hi"}
    system: Message = {"role": "system", "content": "Be brief."}
    try:
        template.render([question])
    except TemplateRefused as error:
        raise ModelFolderError(f"the chat template in {folder} can't render a question: {error}") from error
    tokenizer_file.check_chat(tokenizer_file.load(folder), template, folder)
    try:
        template.render([system, question])
    except TemplateRefused as error:
        return [f"The chat template of this model accepts no system message ({error}): leave SYSTEM_PROMPT unset"]
    return []


def write_openvino_tokenizer(folder: Path) -> None:
    """Convert the folder's tokenizer.json to openvino_tokenizer and openvino_detokenizer, which GenAI loads.

    Raises CheckpointError if OpenVINO does not support something in it.
    """
    import openvino as ov
    from openvino_tokenizers import convert_tokenizer
    from transformers import PreTrainedTokenizerFast

    try:
        # Not AutoTokenizer, which does not use tokenizer.json as it is if there is a class for the model.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        tokenizer.padding_side = tokenizer.truncation_side = "left"
        models = convert_tokenizer(tokenizer, with_detokenizer=True)
    except Exception as error:  # two libraries are involved, each with errors of its own
        raise CheckpointError(
            f"the tokenizer in {folder / 'tokenizer.json'} is not supported by OpenVINO: {first_line(error)}"
        ) from error
    for model, name in zip(models, ("openvino_tokenizer", "openvino_detokenizer"), strict=True):
        ov.save_model(model, folder / f"{name}.xml")
