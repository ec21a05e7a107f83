from hypothesis import given
from hypothesis import strategies as st

from conflayers.acceptance import accept_greedy, cut_at_end
from conflayers.draft import Draft


def said(target):
    """The target's own token after each node of a chain; the root is node -1."""
    return lambda node: target[node + 1]


TOKENS = st.lists(st.integers(0, 3), max_size=12)


@given(TOKENS, st.data())
def test_accepts_the_longest_agreeing_prefix_and_adds_one_token_of_the_target(drafted, data):
    target = data.draw(st.lists(st.integers(0, 3), min_size=len(drafted) + 1, max_size=len(drafted) + 1))

    verdict = accept_greedy(Draft.of(drafted), said(target))

    assert verdict.tokens == tuple(target[: verdict.accepted + 1])
    assert drafted[: verdict.accepted] == target[: verdict.accepted]
    assert verdict.accepted == len(drafted) or drafted[verdict.accepted] != target[verdict.accepted]


def test_token_zero_is_a_token_like_any_other():
    assert accept_greedy(Draft.of([0, 0]), said([0, 1, 0])).tokens == (0, 1)
    assert accept_greedy(Draft(), said([0])).tokens == (0,)


@given(TOKENS, st.sets(st.integers(0, 3)))
def test_nothing_is_kept_after_the_first_end_token(tokens, end):
    kept, ended = cut_at_end(tokens, frozenset(end))

    assert list(kept) == tokens[: len(kept)]
    assert not any(token in end for token in kept[:-1])
    assert ended == any(token in end for token in tokens)
    assert ended or list(kept) == tokens
    assert not ended or kept[-1] in end
