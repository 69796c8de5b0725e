"""The chat template of a model folder, which turns messages into the text of a prompt."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from jinja2.exceptions import TemplateError

from text_generation.errors import RequestError, first_line
from text_generation.model_folder import ModelFolderError, read_json

# The names that templates use; their values are in tokenizer_config.json or, in older folders, special_tokens_map.json.
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Message(TypedDict):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class TemplateRefused(RequestError):
    """The chat template rejects the messages; the error message has the template's reason, which may quote them."""


class ChatTemplate:
    """A Jinja chat template, run in a sandbox without access to files or the network."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]):
        # Imported here because it takes half a second, during which GenAI's process is already loading.
        from transformers.utils.chat_template_utils import render_jinja_template

        self._render = render_jinja_template
        self.source = source
        self.special_tokens = dict(special_tokens)

    @classmethod
    def load(cls, folder: Path) -> "ChatTemplate":
        """Read the template of a checkpoint or model folder; if there are several, the one named default.

        Raises ModelFolderError if there is none, if none of several is named default, or if a file can't be read.
        """
        config = read_json(folder / "tokenizer_config.json")
        stated = config
        if "added_tokens_decoder" not in config:  # as in transformers: then the older file counts, and comes first
            stated = config | read_json(folder / "special_tokens_map.json")
        return cls(_source(folder, config), _special_tokens(stated))

    def render(self, messages: Sequence[Message], **variables: Any) -> str:
        """Return the text of the prompt, up to the point where the assistant's answer begins.

        `variables` are further inputs of the template, such as `enable_thinking`. Raises TemplateRefused if the
        template rejects the messages or fails on them.
        """
        given = self.special_tokens | variables
        try:
            texts: list[str] = self._render(
                [[dict(message) for message in messages]],
                chat_template=self.source,
                add_generation_prompt=True,
                **given,
            )[0]
        except TemplateError as error:
            problem = "the model's chat template refuses these messages"
            raise TemplateRefused(f"{problem}: {first_line(error)}", problem) from error
        except Exception as error:  # an expression in a template can raise anything
            problem = f"the model's chat template fails on these messages: {type(error).__name__}"
            raise TemplateRefused(f"{problem}: {first_line(error)}", problem) from error
        return texts[0]


def _source(folder: Path, config: dict[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        template = config.get("chat_template") or read_json(folder / "chat_template.json").get("chat_template")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFolderError(f"{path} can't be read ({error}): copy or recreate the folder") from error
    if isinstance(template, str):
        return template
    if not template:
        raise ModelFolderError(
            f"{folder} has no chat template: its model was not trained for chat, or the template was not copied "
            "(chat_template.jinja, or chat_template in tokenizer_config.json)"
        )
    named: dict[str, str] = {}
    for entry in template if isinstance(template, list) else [template]:
        match entry:
            case {"name": str(name), "template": str(text)}:
                named[name] = text
            case _:
                raise ModelFolderError(
                    f"{folder} has a damaged chat template (neither a text nor a list of names and templates): put the "
                    "template into chat_template.jinja"
                )
    if "default" not in named:
        raise ModelFolderError(
            f"{folder} has several chat templates ({', '.join(named)}), none of them named default: put one into "
            "chat_template.jinja"
        )
    return named["default"]


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    tokens = {name: token_text(config.get(name)) for name in _SPECIAL_TOKENS}
    return {name: token for name, token in tokens.items() if token is not None}


def token_text(token: Any) -> str | None:
    """Return the text of a token in a tokenizer's files, which is a string or an object; None if it is neither."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None
