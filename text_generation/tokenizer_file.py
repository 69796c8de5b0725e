"""A model folder's tokenizer.json: read and compared with the model it lies beside."""

import contextlib
from pathlib import Path

from tokenizers import Tokenizer

from text_generation.chat_template import ChatTemplate, Message, TemplateRefused
from text_generation.errors import first_line
from text_generation.model_folder import ModelFolderError, config_size, read_json

_USER: Message = {"role": "user", "content": "Hi"}
_ASSISTANT: Message = {"role": "assistant", "content": "Hello."}
_CHATS: tuple[list[Message], ...] = (
    [_USER],
    [{"role": "system", "content": "Be brief."}, _USER],
    [_USER, _ASSISTANT, _USER],
)


def load(folder: Path) -> Tokenizer:
    """The folder's tokenizer, which takes a text as it is, whatever lengths tokenizer.json asks for.

    Raises ModelFolderError if it is damaged or another model's.
    """
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more exact
        raise ModelFolderError(f"{path} is damaged ({first_line(error)}): copy or make the folder again") from error
    check_vocabulary(tokenizer, config_size(folder, "vocab_size"), folder)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def check_vocabulary(tokenizer: Tokenizer, size: int, folder: Path) -> None:
    """Check that the folder's model, which knows `size` tokens, knows each that the tokenizer can make of a text.

    Special tokens don't count: some folders name more of them than the model has, and never use them, which
    `check_chat` looks at. Raises ModelFolderError.
    """
    special = {token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    for token, token_id in tokenizer.get_vocab().items():
        if token_id >= size and token_id not in special:
            raise ModelFolderError(
                f"{folder / 'tokenizer.json'} is another model's: {token!r} is beyond this one's {size} tokens"
            )


def check_chat(tokenizer: Tokenizer, template: ChatTemplate, folder: Path) -> None:
    """Check that the folder's model knows each token that chats are made of and that ends an answer: those that its
    chat template writes, those that the tokenizer adds to a text, and the tokenizer's own end token.

    Raises ModelFolderError.
    """
    size = config_size(folder, "vocab_size")
    used: dict[str, int] = {}
    for chat in _CHATS:
        with contextlib.suppress(TemplateRefused):  # some take no system message
            encoding = tokenizer.encode(template.render(chat))
            used |= dict(zip(encoding.tokens, encoding.ids, strict=True))
    end = template.special_tokens.get("eos_token")
    if end is not None and (end_id := tokenizer.token_to_id(end)) is not None:
        used[end] = end_id
    # The library numbers added tokens through where the file leaves a gap before them, whatever ids it gives them.
    stated = {token["content"]: token["id"] for token in read_json(folder / "tokenizer.json").get("added_tokens", [])}
    for token, token_id in used.items():
        stated_id = stated.get(token, token_id)
        if max(token_id, stated_id) >= size:
            raise ModelFolderError(
                f"chats with the model in {folder} use the token {token!r} ({stated_id}), which is beyond the {size} "
                "that it has: the embedding was not resized when the token was added; take another checkpoint"
            )
        if token_id != stated_id:
            raise ModelFolderError(
                f"{folder / 'tokenizer.json'} gives {token!r} the id {stated_id}, but leaves a gap before it, so that "
                f"it would be read as {token_id}: take another checkpoint"
            )
