import sys

import pytest

from conflayers import InputError
from conflayers.bench import quality
from conflayers.bench.quality import rouge2


def test_pairs_shared_with_the_reference_are_counted():
    # Pairs of the text: the cat, cat sat; of the reference: the cat, cat sat, sat down. Precision 1, recall 2/3.
    assert rouge2("The cat sat.", "the cat sat down") == pytest.approx(0.8)
    assert rouge2("the cat sat down", "The cat sat.") == pytest.approx(0.8)
    # A pair counts no more often than the reference has it: 1 of 3 here, 1 of 2 there.
    assert rouge2("a b a b", "a b c") == pytest.approx(2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))
    assert rouge2("b a", "a b") == 0


def test_the_same_words_score_one_and_nothing_scores_nothing():
    assert rouge2("", "") == 1
    assert rouge2("Word!", "word") == 1
    assert rouge2("one and two", "One and, two") == 1
    assert rouge2("", "some words") == 0
    assert rouge2("some words", "") == 0
    assert rouge2("word", "another word") == 0


def test_letters_outside_ascii_are_letters():
    # Split at the umlaut, "ber", "gr", "e" would be shared.
    assert rouge2("übergröße", "abergraße") == 0
    assert rouge2("das schöne Haus", "Das schöne Haus am See") == pytest.approx(2 * 1 * 0.5 / 1.5)
    # Pairs of signs: 今天, 天天, 天气 against 今天, 天下, 下雨 share one of three.
    assert rouge2("今天天气", "今天下雨") == pytest.approx(1 / 3)
    assert rouge2("Привет, мир", "привет мир и всем") == pytest.approx(0.5)


def test_ascii_is_scored_as_the_library_does_by_itself():
    from rouge_score.rouge_scorer import RougeScorer

    text = "It's 3.5 degrees in snake_case; e-mail the U.S. office: don't wait, don't stop"
    reference = "e-mail the U.S. office, it's 3.5 degrees -- do not stop or wait in snake_case"
    own = RougeScorer(["rouge2"]).score(reference, text)["rouge2"].fmeasure
    assert 0 < own < 1
    assert rouge2(text, reference) == pytest.approx(own)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    quality._scorer.cache_clear()
    with pytest.raises(InputError, match=r"rouge-score: pip install 'conflayers\[bench\]'"):
        rouge2("a b", "b c")
