"""Stub."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """S."""

    id: str
    data: str
    category: str
    turns: tuple[str, ...]
    reference: str | None = None
    program: object = None


@dataclass(frozen=True, slots=True)
class Data:
    """D."""

    name: str
    digest: str
    samples: tuple[Sample, ...]


def read_data(source: str, limit=None, seed=0) -> Data:
    """R."""
    texts = ["def read(self", "class Foo", "import os"][: limit or 9]
    return Data(source, "0", tuple(Sample(str(i), source, "ab"[i % 2], (t, "go on")) for i, t in enumerate(texts)))
