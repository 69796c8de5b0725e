"""The real model's prompts, as made by the servables and by transformers."""

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from text_generation.serve.prompts import PromptEncoder


@pytest.fixture(scope="session")
def encoder(int8_model) -> PromptEncoder:
    return PromptEncoder.load(int8_model)


@pytest.fixture(scope="session")
def tokenizer(int8_model) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(int8_model)
