"""A benchmark's page: one HTML document that asks for nothing from outside, and runs nothing."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from conflayers.bench.page_tables import (
    cell,
    differences_table,
    first_differences,
    methods_table,
    speedups_table,
    values_table,
)
from conflayers.bench.results import Results
from conflayers.bench.values import PLAIN, categories, checked, kind, totals, verdict


@dataclass(frozen=True, slots=True)
class Picture:
    """A plot.

    Attributes:
        name: of its file, without ending.
        title, caption: what it shows, and how to read it.
        light, dark: PNG files.
    """

    name: str
    title: str
    caption: str
    light: bytes
    dark: bytes


def page(results: Results, pictures: Sequence[Picture]) -> str:
    """The document.

    Raises:
        InputError: the rows are none.
    """
    model = results.settings.get("model")
    parts = [*_tables(results), *_figures(pictures), *_settings(results)]
    template = Template(files("conflayers.bench").joinpath("page.html.in").read_text(encoding="utf-8"))
    title = "Benchmark" if model is None else f"Benchmark of {model}"
    return template.substitute(title=escape(title), head="\n".join(_head(results)), body="\n".join(parts))


def _head(results: Results) -> list[str]:
    settings, origin = results.settings, results.provenance
    device = str(settings.get("device") or "a device that was not noted")
    on_cpu = device.partition(":")[0].lower() == "cpu"
    where = "the CPU" if on_cpu else device
    named = origin.get("processor") if on_cpu else origin.get("accelerator")
    facts = [f"Measured on <b>{escape(where)}</b>" + (f" ({cell(named)})" if named else "")]
    if settings.get("threads") is not None:
        facts.append(f"{cell(settings['threads'])} {'thread' if settings['threads'] == 1 else 'threads'}")
    if settings.get("dtype") is not None:
        facts.append(cell(settings["dtype"]))
    if settings.get("max_new_tokens") is not None:
        facts.append(f"at most {cell(settings['max_new_tokens'])} new tokens")
    if settings.get("repeat") is not None:
        facts.append(f"{cell(settings['repeat'])} {'repeat' if settings['repeat'] == 1 else 'repeats'}")
    lines = [f'<p class="lead">{", ".join(facts)}.</p>', f'<p class="soft">{_dates(origin)}</p>']
    if not origin.get("finished"):
        lines.append('<p class="warn">This benchmark is not finished, or its end was not noted.</p>')
    if results.restarts:
        times = "once" if len(results.restarts) == 1 else f"{len(results.restarts)} times"
        lines.append(
            f'<p class="warn">It was interrupted {times}, after {", ".join(map(cell, results.restarts))} records; '
            "each time the methods began again with nothing learnt.</p>"
        )
    return [*lines, *_outcome(results)]


def _dates(origin: dict[str, Any]) -> str:
    named = [f"{name} {cell(origin[name])}" for name in ("started", "finished") if origin.get(name)]
    return ", ".join(named) or "No dates were noted."


def _outcome(results: Results) -> list[str]:
    """How many methods won and lost, in a sentence."""
    found = [verdict(row) for row in totals(checked(results.rows)) if row["method"] != PLAIN]
    kinds = (
        ("faster than plain decoding", [words for words in found if kind(words) == "good"]),
        ("slower", [words for words in found if kind(words) == "bad"]),
        ("with no difference shown", [words for words in found if words.startswith("no difference")]),
        ("with too few samples to tell", [words for words in found if "no interval" in words]),
    )
    counted = {words: len(some) for words, some in kinds}
    named = [f"{count} {words}" for words, count in counted.items() if count]
    return [f"<p>Of {len(found)} methods: {', '.join(named)}. Search time is in every number.</p>"] if named else []


def _tables(results: Results) -> list[str]:
    rows = checked(results.rows)
    if not rows:
        return [
            "<h2>Results</h2>",
            '<p class="warn">There are no rows: the benchmark has not come to its end. Let the same command go on, '
            "then write the report again.</p>",
        ]
    parts = ["<h2>Results</h2>", methods_table(totals(rows), first_differences(results.records))]
    parts.append(
        '<p class="soft">Ratios are of total times per new token, over all requests; intervals are 95%, by the '
        "bootstrap. A row whose interval includes 1 shows no difference. First differences and logit gaps: plain "
        "decoding's token against the other, by the whole model; a gap of rounding's size is a tie.</p>"
    )
    differing = differences_table(results.records, results.samples)
    if differing:
        parts += ["<h2>Texts that differ from plain decoding's</h2>", differing]
    speedups = speedups_table(rows)
    if speedups:
        parts += ["<h2>By category</h2>", "<h3>Speedup over plain decoding</h3>", speedups]
        for name in categories(rows):
            some = methods_table([row for row in rows if row["category"] == name])
            parts.append(f"<details><summary>{escape(name)}: all numbers</summary>{some}</details>")
    return parts


def _figures(pictures: Sequence[Picture]) -> list[str]:
    parts = ["<h2>Plots</h2>"] if pictures else []
    for one in pictures:
        light, dark = (base64.b64encode(image).decode() for image in (one.light, one.dark))
        parts.append(
            f"<figure><h3>{escape(one.title)}</h3>"
            f'<div class="picture"><picture><source media="(prefers-color-scheme: dark)" '
            f'srcset="data:image/png;base64,{dark}">'
            f'<img src="data:image/png;base64,{light}" alt="{escape(one.title)}"></picture></div>'
            f"<figcaption>{escape(one.caption)}</figcaption></figure>"
        )
    return parts


def _settings(results: Results) -> list[str]:
    parts = ["<h2>Settings</h2>", values_table(_spelt(results.settings))]
    return [*parts, "<h2>Where the numbers come from</h2>", values_table(_spelt(results.provenance))]


def _spelt(values: dict[str, Any]) -> dict[str, Any]:
    """A command as one would type it; the rest as it is."""
    import shlex

    command = values.get("command")
    if isinstance(command, list) and all(isinstance(word, str) for word in command):
        return {**values, "command": shlex.join(command)}
    return values
