"""Texts end where they should, wherever in a draft that falls; their pieces are the text and split no character."""

import itertools

import pytest
from faults.helpers import CHAIN, PLAN, TREE, VANILLA, scripted
from hypothesis import given, settings
from hypothesis import strategies as st

from conflayers import InputError
from conflayers.text import INCOMPLETE

DRAFTS = {"vanilla": VANILLA, "chain": CHAIN, "tree": TREE}
# Drafts that are accepted whole, that err now and then, and that always err.
AGREEMENTS = {
    "always": lambda plan, position: True,
    "sometimes": lambda plan, position: position % 3 != 0,
    "never": lambda plan, position: False,
}
TEXT = "The sun — Größe 太陽 🌞 rises over the sea, and the sea is calm."

each_draft = pytest.mark.parametrize("draft", DRAFTS)
each_agreement = pytest.mark.parametrize("agreement", AGREEMENTS)


def say(reading, text, draft, agreement="sometimes", **arguments):
    """Pieces and result of a model that says `text` and then ends it."""
    tokens = [*text.encode(), reading.tokenizer.eos_token_id]
    llm = scripted(reading, tokens, agrees=AGREEMENTS[agreement], trees=draft == "tree")
    arguments = {"max_new_tokens": len(tokens) + 5, "eos_token_id": reading.tokenizer.eos_token_id, **arguments}
    with llm.stream([1], **arguments, **DRAFTS[draft]) as stream:
        pieces = list(stream)
    return pieces, stream.result, llm.body


def counts_add_up(stats, behind_the_end=0):
    yielded = 1 + stats.num_plain_steps + stats.num_spec_steps + stats.num_accepted_draft_tokens
    assert stats.new_tokens == yielded - behind_the_end
    assert stats.num_spec_steps == sum(stats.acceptance_histogram.values())
    assert stats.num_accepted_draft_tokens == sum(n * count for n, count in stats.acceptance_histogram.items())
    assert sum(stats.num_accepted_tokens_per_pos) == stats.num_accepted_draft_tokens
    assert stats.num_accepted_draft_tokens <= stats.num_draft_tokens + stats.num_sibling_tokens


@each_draft
@each_agreement
def test_the_text_ends_with_its_end_token_wherever_that_falls(reading, draft, agreement):
    for length in range(1, 14):
        text = "abcdefghijklmnop"[:length]
        pieces, result, body = say(reading, text, draft, agreement)

        assert result.text == "".join(pieces) == text
        assert result.token_ids == [*text.encode(), reading.tokenizer.eos_token_id]
        assert body.cached == [1, *text.encode()]


@each_draft
@each_agreement
def test_the_limit_cuts_wherever_it_falls(reading, draft, agreement):
    for limit in range(1, 14):
        pieces, result, _ = say(reading, TEXT, draft, agreement, max_new_tokens=limit)

        assert result.token_ids == [*TEXT.encode()][:limit]
        assert result.text == "".join(pieces)
        assert result.text.rstrip(INCOMPLETE) == TEXT.encode()[:limit].decode(errors="ignore")
        assert result.stats.new_tokens == limit


@each_draft
@each_agreement
def test_a_stop_string_cuts_wherever_it_falls(reading, draft, agreement):
    # Every piece of the text, of one character and of four: all lie across tokens, most across rounds.
    for start, length in itertools.product(range(0, len(TEXT) - 4, 3), (1, 4)):
        stop = TEXT[start : start + length]
        pieces, result, _ = say(reading, TEXT, draft, agreement, stop_strings=stop)

        assert result.text == "".join(pieces) == TEXT[: TEXT.index(stop) + length]
        assert result.token_ids == [*result.text.encode()]
        assert result.stats.new_tokens == len(result.token_ids)


@each_draft
@each_agreement
def test_counts_add_up(reading, draft, agreement):
    _, whole, _ = say(reading, TEXT, draft, agreement, max_new_tokens=len(TEXT.encode()))
    counts_add_up(whole.stats)
    assert (whole.stats.num_spec_steps > 0) == (draft != "vanilla")
    accepted = whole.stats.num_accepted_draft_tokens - whole.stats.num_accepted_sibling_tokens
    assert (accepted > 0) == (draft != "vanilla" and agreement != "never")
    # Where the main chain errs the sibling is right.
    assert (whole.stats.num_accepted_sibling_tokens > 0) == (draft == "tree" and agreement != "always")


def test_tokens_accepted_behind_the_end_are_counted_as_accepted_and_not_as_new(reading):
    # The prefill says "a"; the one draft is "bcde", accepted whole, and the text ends with its first letter.
    _, result, _ = say(reading, "abcdefgh", "chain", "always", stop_strings="b")

    assert (result.text, result.stats.num_accepted_draft_tokens) == ("ab", 4)
    counts_add_up(result.stats, behind_the_end=4)


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(st.sampled_from("abcä太🌞 "), min_size=1, max_size=25),
    stops=st.lists(st.text(st.sampled_from("abcä太🌞 "), min_size=1, max_size=4), min_size=1, max_size=3),
    draft=st.sampled_from(sorted(DRAFTS)),
    agreement=st.sampled_from(sorted(AGREEMENTS)),
)
def test_a_text_with_stop_strings_is_the_plain_text_cut_after_the_first(reading, text, stops, draft, agreement):
    pieces, result, _ = say(reading, text, draft, agreement, stop_strings=stops)

    ends = [text.index(stop) + len(stop) for stop in stops if stop in text]
    assert result.text == "".join(pieces) == text[: min(ends, default=len(text))]
    assert not any(INCOMPLETE in piece or not piece for piece in pieces)


@settings(max_examples=60, deadline=None)
@given(data=st.binary(min_size=1, max_size=30), draft=st.sampled_from(sorted(DRAFTS)))
def test_bytes_that_are_no_text_come_out_as_the_tokenizer_shows_them(reading, data, draft):
    llm = scripted(reading, list(data), agrees=AGREEMENTS["sometimes"], trees=True)
    with llm.stream([1], max_new_tokens=len(data), **DRAFTS[draft]) as stream:
        pieces = list(stream)

    assert (
        "".join(pieces) == stream.result.text == reading.tokenizer.decode(list(data)) == data.decode(errors="replace")
    )


def test_tokens_without_text_inside_a_stop_string_do_not_hide_it(reading):
    end = reading.tokenizer.eos_token_id
    script = [*b"a", *[end] * 40, *b"b", *b"c"]
    llm = scripted(reading, script)

    result = llm.generate([1], max_new_tokens=len(script), eos_token_id=[], stop_strings="ab", **CHAIN)

    assert result.text == "ab"
    assert result.token_ids == script[:-1]


@pytest.mark.parametrize("wrong", ["", [], ["a", ""], 5, [5], {"a": 1}], ids=repr)
def test_what_is_no_stop_string_is_refused(reading, wrong):
    with pytest.raises(InputError, match="stop_strings must be one text or several"):
        reading.stream([1], stop_strings=wrong)


def test_a_stop_string_in_the_prompt_stops_nothing(reading):
    llm = scripted(reading, [*b"xyz"], prompt=2)

    assert llm.generate([*b"ab"], max_new_tokens=3, stop_strings=["ab", "bx"], **VANILLA).text == "xyz"


def test_only_the_first_of_two_requests_with_one_plan_ends_early(reading):
    _, cut, _ = say(reading, "one two three", "chain", stop_strings="two")
    _, whole, _ = say(reading, "one two three", "chain")

    assert (cut.text, whole.text) == ("one two", "one two three")
    assert cut.plan == whole.plan == PLAN
