"""What these servables run with; see the README's table of settings."""

import logging

from text_generation.serve.settings import Settings

settings = Settings.from_environment()
logging.basicConfig(format="[%(asctime)s][%(name)s][%(levelname)s] %(message)s")  # where the server has none
logging.getLogger("text_generation").setLevel(settings.log_level)
