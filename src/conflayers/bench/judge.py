"""What is said of a text beside its speed: likeness to plain decoding's and to a reference, and whether code runs."""

from collections.abc import Callable

from conflayers.bench.data import Sample
from conflayers.bench.record import Record
from conflayers.errors import InputError

Judge = Callable[[Sample, Record, str, str], None]


def make_judge(rouge: bool, run_code: bool) -> Judge:
    """A judge of texts.

    Args:
        rouge: ROUGE-2 against plain decoding, and against the sample's reference where it has one.
        run_code: run the programs of samples that come with tests. That is code a model wrote.
    """

    def judge(sample: Sample, record: Record, text: str, plain: str) -> None:
        if rouge:
            from conflayers.bench.quality import rouge2

            record.rouge_to_plain = 1.0 if text == plain else rouge2(text, plain)
            # A reference answers the first turn.
            if sample.reference is not None and record.turn == 0:
                record.rouge_to_reference = rouge2(text, sample.reference)
        if run_code and sample.program is not None:
            from conflayers.bench.humaneval import passes

            record.passed = passes(sample.program, text)

    return judge


def rouge_available() -> bool:
    """Whether the package for ROUGE is installed."""
    from conflayers.bench.quality import rouge2

    try:
        rouge2("a b", "b c")
    except InputError:
        return False
    return True
