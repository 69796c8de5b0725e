"""The end tokens of a model, collected from all files of its folder."""

import logging
from pathlib import Path

from tokenizers import Tokenizer

from text_generation.model_folder import read_json

logger = logging.getLogger(__name__)


def stop_token_ids(folder: Path, tokenizer: Tokenizer, eos_token: str | None) -> frozenset[int]:
    """Return the end tokens from generation_config.json and config.json, and the tokenizer's own.

    Published models often list only some of them in each place.
    """
    found = {tokenizer.token_to_id(eos_token)} if eos_token else set()
    for name in ("generation_config.json", "config.json"):
        token_ids = read_json(folder / name).get("eos_token_id")
        found |= set(token_ids) if isinstance(token_ids, list) else {token_ids}
    stops = frozenset(token_id for token_id in found if isinstance(token_id, int))
    if not stops:
        logger.warning("%s has no end token: every answer runs to its maximum length", folder)
    return stops
