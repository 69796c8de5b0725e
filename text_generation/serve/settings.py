"""What a servable runs with: environment variables over defaults, checked when the server starts."""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, Json, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from text_generation.serve.sampling import SamplingParams

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
    engine: Literal["optimum", "genai"] = "optimum"
    device: str = "AUTO"
    ov_config: Annotated[Json[dict[str, Any]], AfterValidator(lambda given: DEFAULT_OV_CONFIG | given)] = (
        DEFAULT_OV_CONFIG
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    seed: int | None = Field(None, ge=0, lt=2**32)
    max_new_tokens: int = Field(1024, ge=1)
    temperature: float = Field(1.0, ge=0, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(50, ge=0, lt=2**31)
    repetition_penalty: float = Field(1.1, gt=0, allow_inf_nan=False)
    ignore_eos: bool = False
    system_prompt: Annotated[str, AfterValidator(_encodable)] | None = None

    max_concurrent_requests: int = Field(32, ge=1)
    max_queued_requests: int = Field(128, ge=0)
    queue_timeout_s: float = Field(60, ge=0, allow_inf_nan=False)
    max_prompts_per_request: int = Field(32, ge=1)
    max_prompt_tokens_per_request: int = Field(8192, ge=1)
    kv_cache_gb: int = Field(2, ge=1, le=2**16)

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
    def sampling(self) -> SamplingParams:
        """How the servable's requests are sampled."""
        return SamplingParams(**{field.name: getattr(self, field.name) for field in fields(SamplingParams)})
