"""What this servable runs with; see the README's table of settings."""

from text_generation.serve.logs import set_up_logging
from text_generation.serve.settings import Settings

settings = Settings.from_environment()
set_up_logging(settings)
