import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from text_generation.serve import detokenizer
from text_generation.serve.detokenizer import REPLACEMENT, Detokenizer

TEXTS = [
    "The theory of relativity.",
    "naïve café, Größe, señor",
    "相对论是物理学的理论。",
    "نظرية النسبية",
    "सापेक्षता का सिद्धांत",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇫🇷",
    f"a literal {REPLACEMENT} stays",
]


@pytest.fixture(scope="module")
def byte_level() -> Tokenizer:
    """As in GPT-2, SmolLM2 and Llama 3: any byte is a token, and tokens may hold parts of characters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet)}
    two_emoji = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str("👍👍")[0][0]
    merges = []
    for left, right in [(two_emoji[3], two_emoji[4]), (two_emoji[0], two_emoji[1])]:  # one spans two characters
        merges.append((left, right))
        vocabulary[left + right] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@pytest.fixture(scope="module")
def byte_fallback() -> Tokenizer:
    """As in Llama 2: words carry their space, what is not in the vocabulary is spelled in byte tokens."""
    vocabulary = {"<unk>": 0} | {f"<0x{byte:02X}>": byte + 1 for byte in range(256)}
    for piece in ("▁", "a", "▁a", "é", "相"):
        vocabulary[piece] = len(vocabulary)
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=[("▁", "a")], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def pieces_of(tokenizer: Tokenizer, token_ids: list[int]) -> list[str]:
    decoder = Detokenizer(tokenizer)
    return [decoder.push([token_id]) for token_id in token_ids] + [decoder.flush()]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_pieces_join_to_the_text_and_split_no_character(request, kind, text):
    tokenizer = request.getfixturevalue(kind)
    token_ids = tokenizer.encode(text).ids
    pieces = pieces_of(tokenizer, token_ids)
    assert "".join(pieces) == tokenizer.decode(token_ids) == text
    assert sum(piece.count(REPLACEMENT) for piece in pieces) == text.count(REPLACEMENT)
    assert len([piece for piece in pieces if piece]) > 1  # it came in pieces, not all at the end


def test_a_cut_off_character_is_flushed_as_the_decoder_writes_it(byte_level):
    token_ids = byte_level.encode("ok 👍").ids[:-1]
    pieces = pieces_of(byte_level, token_ids)
    assert "".join(pieces) == byte_level.decode(token_ids) == f"ok {REPLACEMENT}"
    assert pieces[-1] == REPLACEMENT


def test_any_bytes_at_all_come_out_as_decoded_whole(byte_level):
    random_ids = random.Random(1)
    for _ in range(300):
        token_ids = random_ids.choices(range(byte_level.get_vocab_size()), k=random_ids.randrange(1, 80))
        assert "".join(pieces_of(byte_level, token_ids)) == byte_level.decode(token_ids)


def test_bytes_that_spoil_what_came_before_them_do_not_stop_the_text(byte_fallback):
    euro, broken, word = [1 + byte for byte in "€".encode()], [1 + 0x80], [byte_fallback.token_to_id("▁a")]
    assert "".join(pieces_of(byte_fallback, [*euro, *broken, *word, *word])) == f"€{REPLACEMENT} a a"


def test_garbage_costs_the_same_per_token_however_long_it_is(byte_level, monkeypatch):
    longest = 0
    decode = Detokenizer._decode

    def watched(self, context, token_ids):
        nonlocal longest
        longest = max(longest, len(token_ids))
        return decode(self, context, token_ids)

    monkeypatch.setattr(Detokenizer, "_decode", watched)
    token_ids = byte_level.encode("é").ids[1:] * 3000  # a continuation byte, over and over
    assert "".join(pieces_of(byte_level, token_ids)) == byte_level.decode(token_ids)
    assert longest <= detokenizer.MAX_UNDECODED_TOKENS + 1


def test_several_tokens_at_once_are_as_good_as_one_by_one(byte_level):
    token_ids = byte_level.encode("".join(TEXTS)).ids
    decoder = Detokenizer(byte_level)
    pieces = [decoder.push(token_ids[i : i + 7]) for i in range(0, len(token_ids), 7)]
    assert "".join(pieces) + decoder.flush() == "".join(TEXTS)
