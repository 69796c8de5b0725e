"""The settings of this servable; see the table in the README."""

from text_generation.serve.logs import set_up_logging
from text_generation.serve.settings import Settings

settings = Settings.from_environment()
set_up_logging(settings)
