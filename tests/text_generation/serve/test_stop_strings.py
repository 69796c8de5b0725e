import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_generation.serve.stop_strings import StopStrings


def run(stops, pieces):
    """Return the text passed on for each piece, then the flushed text; and whether a stop string was found."""
    found, passed = StopStrings(stops), []
    for piece in pieces:
        text, stopped = found.push(piece)
        passed.append(text)
        if stopped:
            return passed, True
    return [*passed, found.flush()], False


@pytest.mark.parametrize(
    ("stops", "pieces", "passed", "stopped"),
    [
        (["stop"], ["a st", "op b"], ["a ", ""], True),
        (["stop"], ["a st", "ar"], ["a ", "star", ""], False),
        (["stop"], ["s", "t", "o"], ["", "", "", "sto"], False),
        (["stop"], ["sstop"], ["s"], True),
        (["aab"], ["a", "a", "a", "b"], ["", "", "a", ""], True),
        (["\n\n"], ["one\n", "two\n", "\n"], ["one", "\ntwo", ""], True),
        (["相对"], ["物理相", "对论"], ["物理", ""], True),
        (["👍🏽"], ["👍", "🏾", "👍", "🏽"], ["", "👍🏾", "", ""], True),
        (["abc", "b"], ["abc"], ["a"], True),  # b is completed first
        (["bc", "abc"], ["xabc"], ["x"], True),  # both end here: the longer one counts
        ([], ["all"], ["all", ""], False),
    ],
)
def test_the_text_before_the_first_one(stops, pieces, passed, stopped):
    assert run(stops, pieces) == (passed, stopped)


def plain(stops, text):
    """Character by character: return the text before the stop string that is completed first."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@given(st.lists(st.text("abé", min_size=1, max_size=4), max_size=4), st.lists(st.text("abé", max_size=5), max_size=12))
def test_whatever_pieces_it_comes_in(stops, pieces):
    passed, stopped = run(stops, pieces)
    assert ("".join(passed), stopped) == plain(stops, "".join(pieces))


@given(st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4), st.text("ab", max_size=12))
def test_text_is_held_back_only_while_it_may_become_one(stops, text):
    found, passed = StopStrings(stops), ""
    for end, character in enumerate(text, start=1):
        piece, stopped = found.push(character)
        if stopped:
            return
        passed += piece
        held = text[len(passed) : end]
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)
