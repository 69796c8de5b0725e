import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from text_generation.serve.detokenizer import detokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
TEXTS = [
    "The theory of relativity.",
    "naïve café, Größe, señor",
    "相对论是物理学的理论。",
    "نظرية النسبية",
    "सापेक्षता का सिद्धांत",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇫🇷",
    f"a literal {REPLACEMENT} stays",
]
CASES = 10_000


def byte_level() -> Tokenizer:
    """As in GPT-2, SmolLM2 and Llama 3: every byte is a token, and tokens may contain parts of characters."""
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
    tokenizer.add_tokens(["<think>", "思考"])  # added ordinary tokens, one outside the byte alphabet
    return tokenizer


def byte_level_last() -> Tokenizer:
    """The same as the last of several steps, one of which changes tokens."""
    tokenizer = byte_level()
    inner = decoders.Sequence([decoders.Replace("z", "Z"), decoders.ByteLevel()])
    tokenizer.decoder = decoders.Sequence([inner])
    return tokenizer


def _spelled_in_bytes(decoder: decoders.Decoder) -> Tokenizer:
    vocabulary = {"<unk>": 0} | {f"<0x{byte:02X}>": byte + 1 for byte in range(256)}
    for piece in ("▁", "a", "▁a", "▁▁", "é", "相", ",", "<0xZZ>"):
        vocabulary[piece] = len(vocabulary)
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=[("▁", "a")], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoder
    return tokenizer


def byte_fallback() -> Tokenizer:
    """As in Llama 2: words include their space, and text outside the vocabulary is encoded as byte tokens."""
    return _spelled_in_bytes(
        decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    )


def no_strip() -> Tokenizer:
    """As in Gemma: a text's first space is kept."""
    return _spelled_in_bytes(decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]))


def metaspace() -> Tokenizer:
    """As in older sentencepiece conversions."""
    return _spelled_in_bytes(decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]))


KINDS = [byte_level, byte_level_last, byte_fallback, no_strip, metaspace]


@pytest.fixture(params=KINDS, ids=[kind.__name__ for kind in KINDS])
def tokenizer(request) -> Tokenizer:
    return request.param()


def pieces_of(tokenizer: Tokenizer, token_ids: list[int]) -> list[str]:
    decoder = detokenizer(tokenizer)
    return [*map(decoder.push, token_ids), decoder.flush()]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_the_text_and_split_no_character(tokenizer, text):
    token_ids = tokenizer.encode(text).ids
    pieces = pieces_of(tokenizer, token_ids)
    assert "".join(pieces) == tokenizer.decode(token_ids)
    assert sum(piece.count(REPLACEMENT) for piece in pieces) == text.count(REPLACEMENT)
    assert len([piece for piece in pieces if piece]) > 1  # it arrived in pieces, not all at the end


def test_any_tokens_at_all_come_out_as_decoded_whole(tokenizer):
    """Ordinary tokens and runs of bytes that are valid, truncated or garbage."""
    draw = random.Random(1)
    everything = range(tokenizer.get_vocab_size())
    some_bytes = everything[1:257]
    characters = [tokenizer.encode(c).ids[-4:] for c in "é相👍\N{BYTE ORDER MARK}\U0010ffff"]
    for _ in range(CASES):
        token_ids = []
        for _ in range(draw.randrange(1, 12)):
            kind = draw.randrange(3)
            if kind == 0:
                token_ids.append(draw.choice(everything))
            elif kind == 1:
                token_ids += draw.choices(some_bytes, k=draw.randrange(1, 5))
            else:
                character = draw.choice(characters)
                token_ids += character[: draw.randrange(1, len(character) + 1)]
        assert "".join(pieces_of(tokenizer, token_ids)) == tokenizer.decode(token_ids), token_ids


def test_a_cut_off_character_is_flushed_as_the_decoder_writes_it():
    tokenizer = byte_level()
    token_ids = tokenizer.encode("ok 👍").ids[:-1]
    pieces = pieces_of(tokenizer, token_ids)
    assert "".join(pieces) == tokenizer.decode(token_ids) == f"ok {REPLACEMENT}"
    assert pieces[-1] == REPLACEMENT


def test_a_byte_that_spoils_those_before_it():
    """With byte tokens, a whole run may become U+FFFD, so none of it may be sent before its end."""
    tokenizer = byte_fallback()
    run = [1 + byte for byte in "€".encode()] + [1 + 0x80]
    assert pieces_of(tokenizer, [*run, tokenizer.token_to_id("▁a")]) == ["", "", "", "", f"{REPLACEMENT * 4} a", ""]
    whole = [1 + byte for byte in "€".encode()]
    assert pieces_of(tokenizer, [*whole, tokenizer.token_to_id("▁a")]) == ["", "", "", "€ a", ""]


def test_garbage_costs_the_same_per_token_however_long_it_is(tokenizer):
    """30,000 invalid bytes, which would take minutes if all were decoded again with each new one."""
    token_ids = [200] * 10_000 + [255] * 10_000 + [129] * 10_000
    assert "".join(pieces_of(tokenizer, token_ids)) == tokenizer.decode(token_ids)
