"""Where an answer ends: the end tokens that a model folder names, in whichever of its files."""

import logging
from pathlib import Path

from tokenizers import Tokenizer

from text_generation.model_folder import read_json

logger = logging.getLogger(__name__)


def stop_token_ids(folder: Path, tokenizer: Tokenizer, eos_token: str | None) -> frozenset[int]:
    """All end tokens of generation_config.json and config.json, and the tokenizer's own.

    Published models often name only some of them in each place.
    """
    found = {tokenizer.token_to_id(eos_token)} if eos_token else set()
    for name in ("generation_config.json", "config.json"):
        token_ids = read_json(folder / name).get("eos_token_id")
        found |= set(token_ids) if isinstance(token_ids, list) else {token_ids}
    stops = frozenset(token_id for token_id in found if isinstance(token_id, int))
    if not stops:
        logger.warning("%s names no end token: each answer goes on to its longest", folder)
    return stops
