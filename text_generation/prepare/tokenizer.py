"""Copies a checkpoint's tokenizer and chat template into a model folder, and completes tokenizer.json if it must."""

import shutil
from pathlib import Path
from typing import Any

from text_generation import model_folder, tokenizer_file
from text_generation.chat_template import ChatTemplate, Message, TemplateRefused, token_text
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
    if not has_chat_template(checkpoint):
        if fallback_template is None:
            raise CheckpointError(
                f"{checkpoint} has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json): "
                "use the model's chat or instruct version"
            )
        (folder / "chat_template.jinja").write_text(fallback_template, encoding="utf-8")


def has_chat_template(checkpoint: Path) -> bool:
    """Whether a checkpoint folder has a chat template of its own."""
    files = (checkpoint / f"chat_template.{kind}" for kind in ("jinja", "json"))
    return any(path.exists() for path in files) or bool(
        read_json(checkpoint / "tokenizer_config.json").get("chat_template")
    )


def complete_tokenizer(folder: Path) -> None:
    """Add the tokens that only the other files name to the folder's tokenizer.json, as transformers does on loading it.

    The server and OpenVINO read tokenizer.json alone, so they would split such a token into characters. Raises
    ModelFolderError if the files are damaged or contradict each other.
    """
    if not lacks_tokens(folder):
        return
    from transformers import PreTrainedTokenizerFast

    path = folder / "tokenizer.json"
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True).backend_tokenizer
    except Exception as error:  # depends on the files' content
        raise ModelFolderError(
            f"{path} lacks tokens that the tokenizer's other files name, and transformers can't add them "
            f"({first_line(error)}): use another checkpoint"
        ) from error
    for token, stated_id in _named_tokens(folder).items():
        if stated_id is not None and (token_id := tokenizer.token_to_id(token)) not in (None, stated_id):
            raise ModelFolderError(
                f"{folder} gives the token {token!r} the id {stated_id}, but added to tokenizer.json it is {token_id}: "
                "use a checkpoint whose tokenizer files belong together"
            )
    if tokenizer.get_added_tokens_decoder().keys() != tokenizer_file.load(folder).get_added_tokens_decoder().keys():
        tokenizer.save(str(path))


def lacks_tokens(folder: Path) -> bool:
    """Whether the tokenizer's other files name a token that tokenizer.json may split.

    Raises ModelFolderError if a file is damaged.
    """
    added = tokenizer_file.load(folder).get_added_tokens_decoder().values()
    return not _named_tokens(folder).keys() <= {token.content for token in added}


def _named_tokens(folder: Path) -> dict[str, int | None]:
    """The tokens that may not be split, from all files of the tokenizer, with their ids where these are stated."""
    files = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
    main, config, special_tokens, added_tokens = (model_folder.read_json(folder / name) for name in files)
    named: list[Any] = []
    try:
        for name, value in (*config.items(), *special_tokens.items()):
            if name.endswith("_token"):
                named.append(value)
            elif name in ("additional_special_tokens", "extra_special_tokens"):
                named += value.values() if isinstance(value, dict) else value or ()
        with_ids = [
            *added_tokens.items(),
            *((token, int(token_id)) for token_id, token in (config.get("added_tokens_decoder") or {}).items()),
            *((token, token["id"]) for token in main.get("added_tokens") or ()),
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelFolderError(
            f"the tokenizer's files in {folder} are damaged ({type(error).__name__}: {first_line(error)}): copy or "
            "recreate the folder"
        ) from error
    found: dict[str | None, int | None] = {token_text(token): None for token in named}
    found |= {token_text(token): token_id for token, token_id in with_ids}
    return {token: token_id for token, token_id in found.items() if token is not None}


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
