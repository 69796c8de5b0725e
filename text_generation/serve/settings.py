"""The settings of a servable, read from environment variables and checked when the server starts."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, FiniteFloat, Json, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from text_generation import model_folder
from text_generation.generation_config import RepetitionPenalty, Temperature, TopK, TopP, recommended_sampling
from text_generation.serve.engines import EngineName
from text_generation.serve.sampling import SamplingParams, Seed
from text_generation.validation import rule
from text_generation.wording import one_line

# One request at a time on all cores: right for chat, but not what OpenVINO's AUTO device would choose.
DEFAULT_OV_CONFIG = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}


class SettingError(ValueError):
    """Environment variables have invalid values; the message names each."""


class Settings(BaseSettings):
    """One field per environment variable, whose name is in capitals; the README's table explains each."""

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

    # Those not set here come from the model folder.
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    repetition_penalty: RepetitionPenalty | None = None
    seed: Seed | None = None
    max_new_tokens: int = Field(SamplingParams().max_tokens, ge=1)
    ignore_eos: bool = False
    system_prompt: str | None = None

    max_concurrent_requests: int = Field(32, ge=1)
    max_queued_requests: int = Field(128, ge=0)
    queue_timeout_s: FiniteFloat = Field(60, ge=0)
    max_prompts_per_request: int = Field(32, ge=1)
    max_prompt_tokens_per_request: int = Field(8192, ge=1)
    kv_cache_gb: int = Field(2, ge=1, le=2**16)
    prefix_caching: bool = True

    @field_validator("*", mode="before")
    @classmethod
    def _utf8(cls, value: Any) -> Any:
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                problem = "contains bytes that are not UTF-8: write it, and the names of folders, in UTF-8"
                raise ValueError(problem) from None
        return value

    @classmethod
    def from_environment(cls) -> "Settings":
        """Return the settings of this process; SettingError with one line if a variable is invalid."""
        try:
            return cls()
        except ValidationError as error:
            problems = (
                f"{'.'.join(map(str, e['loc'])).upper()} is {one_line(repr(str(e['input'])), 100)}: {rule(e)}"
                for e in error.errors()
            )
            raise SettingError("; ".join(problems)) from None

    @property
    def served_model(self) -> str:
        """The model's name for display: SELECTED_MODEL, else the one in the model folder, else the folder's name."""
        if self.selected_model is not None:
            return self.selected_model
        info = model_folder.read(self.model_path)
        return info.model if info else self.model_path.resolve().name

    def default_sampling(self) -> SamplingParams:
        """Return the default sampling parameters of requests: those set here, else those of the model folder's
        generation_config.json, else those of the original demo.

        Raises ModelFolderError if that file can't be used.
        """
        recommended = recommended_sampling(self.model_path / "generation_config.json")
        own = {name: getattr(self, name, None) for name in SamplingParams.model_fields}
        given = {name: value for name, value in own.items() if value is not None}
        return SamplingParams.model_validate(recommended | given | {"max_tokens": self.max_new_tokens})
