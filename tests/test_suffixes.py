"""The automaton against looking through the whole text."""

from hypothesis import given
from hypothesis import strategies as st

from conflayers.suffixes import Cursor, Suffixes

# Few words, so that a text repeats itself in every way there is.
TEXTS = st.integers(1, 4).flatmap(lambda words: st.lists(st.integers(0, words), max_size=60))


def ends_before(text: list[int], suffix: list[int]) -> list[int]:
    """Where `suffix` ends in `text`, but for its very end."""
    return [at + len(suffix) for at in range(len(text) - len(suffix)) if text[at : at + len(suffix)] == suffix]


@given(TEXTS)
def test_the_cursor_is_the_longest_suffix_that_was_there_before(text):
    suffixes = Suffixes()
    for count in range(1, len(text) + 1):
        suffixes.extend(text[count - 1 : count])
        seen = text[:count]
        wanted = max((n for n in range(1, count) if ends_before(seen, seen[-n:])), default=0)
        assert suffixes.cursor.length == wanted


@given(TEXTS)
def test_what_comes_after_is_what_came_after_when_it_was_last_there(text):
    suffixes = Suffixes()
    suffixes.extend(text)

    found, length = suffixes.after(suffixes.cursor), suffixes.cursor.length

    if length:
        assert found == text[ends_before(text, text[-length:])[-1]]
    else:
        assert found is None


@given(TEXTS, st.lists(st.integers(0, 4), min_size=1, max_size=8))
def test_following_tokens_that_are_not_in_the_text_leaves_it_as_it_is(text, drafted):
    suffixes = Suffixes()
    suffixes.extend(text)
    before = (suffixes.cursor, list(suffixes.tokens))

    cursor, tail = suffixes.cursor, list(text)
    for token in drafted:
        cursor = suffixes.follow(cursor, token)
        tail.append(token)
        assert cursor.length <= len(tail)
        if cursor.length:
            suffix = tail[-cursor.length :]
            assert any(text[at : at + len(suffix)] == suffix for at in range(len(text) - len(suffix) + 1))
            found = suffixes.after(cursor)
            assert found is None or found in [text[end] for end in ends_before(text, suffix)]

    assert (suffixes.cursor, suffixes.tokens) == before


def test_an_empty_text_knows_nothing():
    assert Suffixes().after(Suffixes().cursor) is None
    assert Suffixes().follow(Cursor(), 3) == Cursor()
