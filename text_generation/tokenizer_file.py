"""Reads the tokenizer.json of a model folder and checks that it fits the model."""

import contextlib
from pathlib import Path

from tokenizers import Tokenizer

from text_generation.chat_template import ChatTemplate, Message, TemplateRefused
from text_generation.errors import first_line
from text_generation.model_folder import ModelFolderError, config_size, read_json

_USER: Message = {"role": "user", "content": "What is the capital of France?"}
_ASSISTANT: Message = {"role": "assistant", "content": "Hello."}
_CHATS: tuple[list[Message], ...] = (
    [_USER],
    [{"role": "system", "content": "Be brief."}, _USER],
    [_USER, _ASSISTANT, _USER],
)


def load(folder: Path) -> Tokenizer:
    """Load the folder's tokenizer, without any truncation or padding that tokenizer.json may configure.

    Raises ModelFolderError if it is damaged or belongs to another model.
    """
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise ModelFolderError(f"{path} is damaged ({first_line(error)}): copy or recreate the folder") from error
    check_vocabulary(tokenizer, config_size(folder, "vocab_size"), folder)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def check_vocabulary(tokenizer: Tokenizer, size: int, folder: Path) -> None:
    """Check that the folder's model, which has `size` tokens, has every token that the tokenizer can produce from text.

    Special tokens are not checked here: some folders define more of them than the model has, but never use them, which
    `check_chat` verifies. Raises ModelFolderError.
    """
    special = {token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    for token, token_id in tokenizer.get_vocab().items():
        if token_id >= size and token_id not in special:
            raise ModelFolderError(
                f"{folder / 'tokenizer.json'} is another model's: {token!r} is beyond this one's {size} tokens"
            )


def check_chat(tokenizer: Tokenizer, template: ChatTemplate, folder: Path) -> None:
    """Check that the folder's template passes on the question, and that its model has every special token that chats
    use: those written by the template, those added by the tokenizer, and the tokenizer's own end token.

    Raises ModelFolderError.
    """
    with contextlib.suppress(TemplateRefused):
        _check_question(template.render([_USER]), tokenizer, folder)
    size = config_size(folder, "vocab_size")
    chat_token_ids: dict[str, int] = {}
    for chat in _CHATS:
        with contextlib.suppress(TemplateRefused):  # some do not accept a system message
            encoding = tokenizer.encode(template.render(chat))
            chat_token_ids |= dict(zip(encoding.tokens, encoding.ids, strict=True))
    end = template.special_tokens.get("eos_token")
    if end is not None and (end_id := tokenizer.token_to_id(end)) is not None:
        chat_token_ids[end] = end_id
    # If the file leaves a gap before added tokens, the library ignores their ids and numbers them consecutively.
    added = read_json(folder / "tokenizer.json").get("added_tokens", [])
    stated_ids = {token["content"]: token["id"] for token in added}
    for token, token_id in chat_token_ids.items():
        stated_id = stated_ids.get(token, token_id)
        if max(token_id, stated_id) >= size:
            raise ModelFolderError(
                f"chats with the model in {folder} use the token {token!r} ({stated_id}), but the model has only "
                f"{size} tokens: its embedding was not resized when the token was added; use another checkpoint"
            )
        if token_id != stated_id:
            raise ModelFolderError(
                f"{folder / 'tokenizer.json'} gives {token!r} the id {stated_id}, but leaves a gap before it, so it "
                f"would be read as {token_id}: use another checkpoint"
            )


def _check_question(prompt: str, tokenizer: Tokenizer, folder: Path) -> None:
    if _USER["content"] not in prompt:
        raise ModelFolderError(
            f"the chat template in {folder} leaves out the question, so every answer would be the same: use the "
            "model's text version, or put a template that renders message['content'] into chat_template.jinja"
        )
    if not tokenizer.encode(prompt).ids:
        raise ModelFolderError(
            f"{folder / 'tokenizer.json'} turns a question into no tokens at all: use the model's own tokenizer"
        )
