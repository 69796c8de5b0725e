"""Loads chats for servables and shares them between all servables of a process with the same settings."""

import json
import logging
import threading
from importlib.metadata import version

from text_generation import model_folder
from text_generation.chat_template import TemplateRefused
from text_generation.errors import RequestError, TooLongError
from text_generation.model_folder import ModelFolderError, ModelInfo
from text_generation.serve.chat import Chat
from text_generation.serve.request import ChatMessage, ChatRequest
from text_generation.serve.settings import SettingError, Settings

logger = logging.getLogger(__name__)

_lock = threading.Lock()
_loaded: dict[str, "_Shared"] = {}  # by the settings, as JSON


class _Shared:
    def __init__(self, chat: Chat):
        self.chat = chat
        self.users = 0


def acquire(settings: Settings) -> Chat:
    """Return a chat for these settings, ready to answer: one already loaded in this process, or a new one.

    Give it back with `release`. Raises ModelFolderError if the folder is incomplete or its model can't be run.
    """
    key = settings.model_dump_json()
    with _lock:
        if key not in _loaded:
            _loaded[key] = _Shared(_load(settings))
        _loaded[key].users += 1
        return _loaded[key].chat


def release(chat: Chat) -> None:
    """Give a chat back; it is closed with its last user."""
    with _lock:
        key, shared = next((key, shared) for key, shared in _loaded.items() if shared.chat is chat)
        shared.users -= 1
        if shared.users == 0:
            del _loaded[key]
            chat.close()


def _load(settings: Settings) -> Chat:
    info = model_folder.check(settings.model_path)
    if info is not None:
        _warn_of_differences(info, settings)
    try:
        chat = Chat(settings)
        try:
            _answer_once(chat, settings)
        except BaseException:
            chat.close()
            raise
    except (ModelFolderError, SettingError):
        raise
    except Exception as error:
        cause = " ".join(str(error).split())
        raise ModelFolderError(
            f"ENGINE={settings.engine} can't run {settings.model_path} on DEVICE={settings.device} with "
            f"OV_CONFIG={json.dumps(settings.ov_config)} and KV_CACHE_GB={settings.kv_cache_gb}: {cause}"
        ) from error
    logger.info(
        "%s in %s is ready (ENGINE=%s, DEVICE=%s)",
        settings.served_model,
        settings.model_path,
        settings.engine,
        settings.device,
    )
    return chat


def _answer_once(chat: Chat, settings: Settings) -> None:
    """Run a first inference, which compiles kernels and proves that model and settings work before they are reported
    ready."""
    try:
        hello = ChatMessage(role="user", content="Hello")
        with chat.answer(ChatRequest(messages=[hello], max_tokens=min(2, settings.max_new_tokens))) as generation:
            generation.join()
    except TemplateRefused as error:
        refused = "a user's message" if settings.system_prompt is None else "SYSTEM_PROMPT"
        raise ModelFolderError(f"{settings.model_path} can't be used with {refused}: {error}") from error
    except TooLongError as error:
        advice = "raise the limit" if settings.system_prompt is None else "shorten SYSTEM_PROMPT"
        raise ModelFolderError(f"{settings.model_path} can't answer any question: {error.problem}: {advice}") from error
    except RequestError as error:
        raise ModelFolderError(
            f"SYSTEM_PROMPT and limits leave no room for a question to {settings.model_path}: {error}"
        ) from error


def _warn_of_differences(info: ModelInfo, settings: Settings) -> None:
    if settings.selected_model not in (None, info.model):
        logger.warning(
            "SELECTED_MODEL is %s, but %s holds %s, which is the model that is served",
            settings.selected_model,
            settings.model_path,
            info.model,
        )
    made_by, running = info.packages.get("openvino"), version("openvino")
    if made_by not in (None, running):
        again = "export the original checkpoint" if set(info.packages) == {"openvino"} else "run the two commands again"
        logger.warning(
            "%s was made with OpenVINO %s and runs on %s: if it fails or gives odd answers, %s with this release",
            settings.model_path,
            made_by,
            running,
            again,
        )
