"""What a servable runs with: environment variables over defaults, checked when the server starts."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, Json, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from text_generation import model_folder
from text_generation.model_folder import ModelFolderError, read_json
from text_generation.serve.engines import EngineName
from text_generation.serve.sampling import RepetitionPenalty, SamplingParams, Seed, Temperature, TopK, TopP

# One request after another on all cores: what a chat needs, and what OpenVINO's AUTO device would not choose.
DEFAULT_OV_CONFIG = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}


def _encodable(text: str) -> str:
    text.encode()  # a ValueError where the environment holds bytes that are no UTF-8
    return text


class SettingError(ValueError):
    """Environment variables with values that can't be used; the message names each."""


class Settings(BaseSettings):
    """One field per environment variable, of the same name in capitals; the README's table says what each does."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, validate_default=False)

    selected_model: str | None = None
    model_path: Path = Path("/model")
    engine: EngineName = "optimum"
    device: str = "AUTO"
    ov_config: Annotated[Json[dict[str, Any]], AfterValidator(lambda given: DEFAULT_OV_CONFIG | given)] = (
        DEFAULT_OV_CONFIG
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["text", "json"] = "text"
    llm_metrics_port: int | None = Field(None, ge=1, le=65535)
    llm_metrics_address: str = "127.0.0.1"

    # What is not set here comes from the model folder.
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    repetition_penalty: RepetitionPenalty | None = None
    seed: Seed | None = None
    max_new_tokens: int = Field(SamplingParams().max_tokens, ge=1)
    ignore_eos: bool = False
    system_prompt: Annotated[str, AfterValidator(_encodable)] | None = None

    max_concurrent_requests: int = Field(32, ge=1)
    max_queued_requests: int = Field(128, ge=0)
    queue_timeout_s: float = Field(60, ge=0, allow_inf_nan=False)
    max_prompts_per_request: int = Field(32, ge=1)
    max_prompt_tokens_per_request: int = Field(8192, ge=1)
    kv_cache_gb: int = Field(2, ge=1, le=2**16)
    prefix_caching: bool = True

    @classmethod
    def from_environment(cls) -> "Settings":
        """The settings of this process; SettingError in one line where a variable can't be used."""
        try:
            return cls()
        except ValidationError as error:
            problems = (
                f"{'.'.join(map(str, e['loc'])).upper()} is {str(e['input'])!r}: {e['msg']}" for e in error.errors()
            )
            raise SettingError("; ".join(problems)) from None

    @property
    def served_model(self) -> str:
        """What to call the model: SELECTED_MODEL, else what the model folder says, else the folder's name."""
        if self.selected_model is not None:
            return self.selected_model
        info = model_folder.read(self.model_path)
        return info.model if info else self.model_path.resolve().name

    def default_sampling(self) -> SamplingParams:
        """How requests that say nothing else are sampled: as set here, else by the model folder's
        generation_config.json, else as in the demo.

        Raises ModelFolderError where that file can't be used.
        """
        recommended = _recommended_sampling(self.model_path / "generation_config.json")
        own = {name: getattr(self, name, None) for name in SamplingParams.model_fields}
        given = {name: value for name, value in own.items() if value is not None}
        return SamplingParams.model_validate(recommended | given | {"max_tokens": self.max_new_tokens})


def _recommended_sampling(path: Path) -> dict[str, Any]:
    """What a generation_config.json says of sampling. `do_sample` false stands for temperature 0."""
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    content = read_json(path)
    found = {name: content[name] for name in names if content.get(name) is not None}
    if content.get("do_sample") is False:
        found["temperature"] = 0.0
    try:
        SamplingParams.model_validate(found)
    except ValidationError as error:
        problems = (f"{e['loc'][0]} is {e['input']!r}: {e['msg']}" for e in error.errors())
        raise ModelFolderError(f"{path} can't be used: {'; '.join(problems)}") from error
    return found
