"""The end tokens of a model, collected from all files of its folder."""

import logging
from pathlib import Path

from tokenizers import Tokenizer

from text_generation.generation_config import end_token_ids

logger = logging.getLogger(__name__)


def stop_token_ids(folder: Path, tokenizer: Tokenizer, eos_token: str | None) -> frozenset[int]:
    """Return the end tokens from generation_config.json and config.json, and the tokenizer's own.

    Published models often list only some of them in each place. Raises ModelFolderError if a file can't be used.
    """
    own = tokenizer.token_to_id(eos_token) if eos_token else None
    stops = frozenset() if own is None else frozenset([own])
    for name in ("generation_config.json", "config.json"):
        stops |= end_token_ids(folder / name)
    if not stops:
        logger.warning("%s has no end token: every answer runs to its maximum length", folder)
    return stops
