"""A model folder's chat template: messages in, the prompt's text out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from jinja2.exceptions import TemplateError

from text_generation.errors import RequestError, first_line
from text_generation.model_folder import ModelFolderError, read_json

# What templates refer to by name: tokenizer_config.json says what each is, in older folders special_tokens_map.json.
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Message(TypedDict):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class TemplateRefused(RequestError):
    """The chat template refuses these messages; the message is the template's reason, in one line."""


class ChatTemplate:
    """A chat template in Jinja, run in a sandbox that reaches no file and no network."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]):
        # Imported here, since it takes half a second, in which GenAI's process loads already.
        from transformers.utils.chat_template_utils import render_jinja_template

        self._render = render_jinja_template
        self.source = source
        self.special_tokens = dict(special_tokens)

    @classmethod
    def load(cls, folder: Path) -> "ChatTemplate":
        """Read the template of a checkpoint or model folder; of several, the one called default.

        Raises ModelFolderError where there is none, or none called default, or where a file can't be read.
        """
        config = read_json(folder / "tokenizer_config.json")
        special_tokens_map = read_json(folder / "special_tokens_map.json")
        return cls(_source(folder, config), _special_tokens(special_tokens_map) | _special_tokens(config))

    def render(self, messages: Sequence[Message], **variables: Any) -> str:
        """The text of the prompt, up to where the assistant's answer begins.

        `variables` are what else the template looks at, such as `enable_thinking`. Raises TemplateRefused where the
        template refuses the messages, or fails on them.
        """
        given = self.special_tokens | variables
        try:
            rendered = self._render(
                [[dict(message) for message in messages]],
                chat_template=self.source,
                add_generation_prompt=True,
                **given,
            )[0]
        except TemplateError as error:
            raise TemplateRefused(f"the model's chat template refuses these messages: {first_line(error)}") from error
        except Exception as error:  # whatever an expression in a template can raise
            raise TemplateRefused(
                f"the model's chat template fails on these messages: {type(error).__name__}: {first_line(error)}"
            ) from error
        return rendered[0]


def _source(folder: Path, config: dict[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        template = config.get("chat_template") or read_json(folder / "chat_template.json").get("chat_template")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFolderError(f"{path} can't be read ({error}): copy or make the folder again") from error
    if isinstance(template, str):
        return template
    if not template:
        raise ModelFolderError(
            f"{folder} has no chat template: it holds a model that was not trained to chat, or the template was left "
            "behind (chat_template.jinja, or chat_template in tokenizer_config.json)"
        )
    named = {entry["name"]: entry["template"] for entry in template if isinstance(entry, dict)}
    if "default" not in named:
        raise ModelFolderError(
            f"{folder} has several chat templates ({', '.join(named)}) and none called default: put one into "
            "chat_template.jinja"
        )
    source: str = named["default"]
    return source


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    tokens = {name: _content(config.get(name)) for name in _SPECIAL_TOKENS}
    return {name: token for name, token in tokens.items() if token is not None}


def _content(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token
