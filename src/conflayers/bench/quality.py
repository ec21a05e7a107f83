"""How much of one text is found in another."""

import re
from functools import cache
from typing import Any

from conflayers.errors import InputError

# A run of letters and digits, but each sign by itself in scripts that put no space between words.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")


class _Words:
    """The library's own words where a text is ASCII; the letters of all other scripts count too."""

    def tokenize(self, text: str) -> list[str]:
        """The words of a text, in small letters."""
        return _WORD.findall(text.lower())


def rouge2(text: str, reference: str) -> float:
    """ROUGE-2 F1 (Lin 2004) of a text: how many pairs of neighbouring words it shares with the reference, 0 to 1.

    Case and punctuation do not count, and words are not stemmed, as is the library rouge-score's default. Ours are two
    things: letters outside ASCII count, Chinese and Japanese signs one by one; and texts of the same words score 1
    where they have no pair of words to share, being empty or one word long. The first call with texts that differ
    imports the library, which takes seconds and memory: not while something is measured.

    Raises:
        InputError: rouge-score is not installed; the message says what to install.
    """
    words = _Words()
    if words.tokenize(text) == words.tokenize(reference):
        return 1.0
    return float(_scorer().score(reference, text)["rouge2"].fmeasure)


@cache
def _scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise InputError(f"ROUGE needs the package rouge-score: pip install 'conflayers[bench]' ({error})") from error
    return RougeScorer(["rouge2"], tokenizer=_Words())
