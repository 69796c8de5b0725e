"""A model folder's tokenizer.json: read and compared with the model it lies beside."""

from pathlib import Path

from tokenizers import Tokenizer

from text_generation.errors import first_line
from text_generation.model_folder import ModelFolderError, config_size


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

    Special tokens don't count: some folders name more of them than the model has. Raises ModelFolderError.
    """
    special = {token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    for token, token_id in tokenizer.get_vocab().items():
        if token_id >= size and token_id not in special:
            raise ModelFolderError(
                f"{folder / 'tokenizer.json'} is another model's: {token!r} is beyond this one's {size} tokens"
            )
