"""Data sets of the model hub that papers measure with: which rows are drawn, and how a row becomes a prompt.

As in the code of ConfLayers' paper (arXiv 2604.14612): the test split, or all of Alpaca, is shuffled with seed 2024 and
the first rows are taken; the examples that stand before a question (one of CNN/DailyMail, five of GSM8K) are the first
rows of the training split, shuffled with the same seed. The shuffle is that of `datasets.Dataset.shuffle`: NumPy's
default generator.

Ours are: the wording of the prompts; that articles are not cut to the model's length; XSum, which the paper does not
measure with, is asked without an example.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conflayers.bench.data import OFFLINE, Data, Sample
from conflayers.bench.hub_files import fetch
from conflayers.errors import InputError

PAPER_SEED = 2024
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a data set lies and what is made of it.

    Attributes:
        repo: of the hub.
        questions: pattern of the Parquet files that are drawn from.
        ask, answer: the prompt of a row, and the answer it holds right.
        examples: rows with their answers that stand before each question, from files of the pattern `train`.
        revision: branch; None for the main one.
    """

    repo: str
    questions: str
    ask: Callable[[Row], str]
    answer: Callable[[Row], str]
    examples: int = 0
    train: str = ""
    revision: str | None = None


def _instruction(row: Row) -> str:
    return "\n\n".join(part for part in (row["instruction"], row["input"]) if part)


SOURCES = {
    "cnndm": Source(
        "abisee/cnn_dailymail",
        "3.0.0/test-*.parquet",
        ask=lambda row: f"Article: {row['article'].strip()}\nSummary:",
        answer=lambda row: row["highlights"].strip(),
        examples=1,
        train="3.0.0/train-*.parquet",
    ),
    "gsm8k": Source(
        "openai/gsm8k",
        "main/test-*.parquet",
        ask=lambda row: f"Question: {row['question'].strip()}\nAnswer:",
        answer=lambda row: row["answer"].strip(),
        examples=5,
        train="main/train-*.parquet",
    ),
    "wmt14": Source(
        "wmt/wmt14",
        "de-en/test-*.parquet",
        ask=lambda row: f"Translate from German into English.\nGerman: {row['translation']['de'].strip()}\nEnglish:",
        answer=lambda row: row["translation"]["en"].strip(),
    ),
    "alpaca": Source(
        "tatsu-lab/alpaca", "data/train-*.parquet", ask=_instruction, answer=lambda row: row["output"].strip()
    ),
    # Its main branch holds a script in place of the rows; the hub keeps them on this one.
    "xsum": Source(
        "EdinburghNLP/xsum",
        "default/test/*.parquet",
        ask=lambda row: f"Summarise the article in one sentence.\nArticle: {row['document'].strip()}\nSummary:",
        answer=lambda row: row["summary"].strip(),
        revision="refs/convert/parquet",
    ),
}


def read_source(name: str, limit: int | None = None, seed: int = 0) -> Data:
    """Draw `limit` samples of the data set `name`, or all in the order of the draw; seed 0 draws as the paper does.

    Its files are downloaded to the hub's cache, or found there if the hub cannot be reached. The id of a sample is its
    row. The digest is that of the files drawn from, the examples and the seed.

    Raises:
        InputError: the data set cannot be had here; the message says why, what to install, and what can be had offline.
    """
    source = SOURCES[name]
    _need_pyarrow(name)
    try:
        samples, digest = _read(name, source, limit, PAPER_SEED + seed)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"the files of the data set {name!r} ({source.repo}) are not as expected ({error!r}): "
            f"remove them from the hub's cache and try again; {OFFLINE}"
        ) from error
    if not samples:
        raise InputError(f"the data set {name!r} ({source.repo}) is empty; {OFFLINE}")
    return Data(name, digest, samples)


def _read(name: str, source: Source, limit: int | None, seed: int) -> tuple[tuple[Sample, ...], str]:
    examples = ""
    if source.examples:
        _, rows = _draw(fetch(name, source.repo, source.train, source.revision), source.examples, seed)
        examples = "".join(f"{source.ask(row)} {source.answer(row)}\n\n" for row in rows)
    paths = fetch(name, source.repo, source.questions, source.revision)
    numbers, rows = _draw(paths, limit, seed)
    samples = tuple(
        Sample(str(number), name, name, (examples + source.ask(row),), source.answer(row) or None)
        for number, row in zip(numbers, rows, strict=True)
    )
    return samples, _digest(paths, examples, seed)


def _draw(paths: Sequence[Path], limit: int | None, seed: int) -> tuple[list[int], list[dict[str, Any]]]:
    from conflayers.bench.parquet import count, read_rows

    numbers = np.random.default_rng(seed).permutation(count(paths))[:limit].tolist()
    return numbers, read_rows(paths, numbers)


def _need_pyarrow(name: str) -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"the data set {name!r} needs the package pyarrow: pip install 'conflayers[datasets]' ({error}); {OFFLINE}"
        ) from error


def _digest(paths: Sequence[Path], examples: str, seed: int) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    digest.update(f"{seed}\n{examples}".encode())
    return digest.hexdigest()
