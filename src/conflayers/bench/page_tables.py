"""The tables of a report, as HTML. Whatever comes from the results is escaped here."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from conflayers.bench.record import Record
from conflayers.bench.values import PLAIN, Row, categories, kind, number, pair, totals, verdict

WORDS = ("that is", "texts", "plan in the end", "the first of them", "token")
NOTHING = '<span class="none">&ndash;</span>'


def cell(value: Any) -> str:
    """A value as text of a page."""
    found = number(value)
    if found is not None and not isinstance(value, int):
        return f"{found:.6g}"
    return escape(str(value)) if value is not None else NOTHING


def named(method: str) -> str:
    """A row's head: the method's name, which may be broken behind its colons."""
    return f'<th scope="row">{escape(method).replace(":", ":<wbr>")}</th>'


def decimals(value: Any, places: int, unit: str = "") -> str:
    """A number with so many decimals."""
    found = number(value)
    return NOTHING if found is None else f"{found:,.{places}f}{escape(unit)}"


def share(value: Any) -> str:
    """A share of 1 in percent."""
    found = number(value)
    return NOTHING if found is None else f"{100 * found:.1f}%"


def ratio(row: Row, name: str) -> str:
    """A ratio with its interval."""
    value, interval = decimals(row.get(name), 2), pair(row.get(f"{name}_interval"))
    if interval is None or value == NOTHING:
        return value
    return f"<b>{value}</b> <small>{interval[0]:.2f} to {interval[1]:.2f}</small>"


def mark(row: Row) -> str:
    """What the speedup shows, in words and colour."""
    words = verdict(row)
    if not words:
        return "plain decoding itself" if row["method"] == PLAIN else NOTHING
    return f'<span class="{kind(words)}">{escape(words)}</span>'


def by_repeat(row: Row) -> str:
    """The speedups of the repeats."""
    values = row.get("speedup_by_repeat")
    return ", ".join(decimals(value, 2) for value in values) if isinstance(values, list) and values else NOTHING


def same_text(row: Row, first: Mapping[str, Record] | None = None) -> str:
    """Whether texts are plain decoding's, and if not how many differ and where the first one does."""
    if row["method"] == PLAIN or not isinstance(row.get("identical"), bool):
        return NOTHING
    if row["identical"]:
        return "identical"
    words = f'<span class="bad">{cell(row.get("differing"))} of {cell(row.get("requests"))} differ</span>'
    record = (first or {}).get(row["method"])
    if record is None or record.difference is None:
        return words
    gap = record.difference.logit_gap
    where = f"first at new token {cell(record.difference.position)}"
    return f"{words} <small>{where}, logit gap {cell(gap) if gap is not None else 'unknown'}</small>"


Column = tuple[str, Callable[[Row], str]]
COLUMNS: tuple[Column, ...] = (
    ("requests", lambda row: cell(row.get("requests"))),
    ("new tokens", lambda row: cell(row.get("new_tokens"))),
    ("seconds", lambda row: decimals(row.get("seconds"), 1)),
    ("tokens/s", lambda row: decimals(row.get("tokens_per_second"), 2)),
    ("tokens/s behind the first", lambda row: decimals(row.get("decode_tokens_per_second"), 2)),
    ("first token, ms", lambda row: decimals(_times(row.get("first_token_seconds"), 1000), 1)),
    ("speedup over transformers", lambda row: ratio(row, "speedup_over_hf")),
    ("by repeat", by_repeat),
    ("mean accepted tokens", lambda row: decimals(row.get("mean_accepted_tokens"), 2)),
    ("acceptance rate", lambda row: share(row.get("acceptance_rate"))),
    ("skip ratio", lambda row: share(row.get("skip_ratio"))),
    ("search, s", lambda row: decimals(row.get("select_seconds"), 2)),
    ("search, of all time", lambda row: share(row.get("select_share"))),
    ("peak memory, MB", lambda row: decimals(row.get("peak_memory_mb"), 0)),
    ("more than plain, MB", lambda row: decimals(row.get("extra_memory_mb"), 0)),
    ("ROUGE-2 to plain", lambda row: decimals(row.get("rouge_to_plain"), 3)),
    ("ROUGE-2 to reference", lambda row: decimals(row.get("rouge_to_reference"), 3)),
    ("passed", lambda row: share(row.get("passed"))),
)


def methods_table(rows: Sequence[Row], first: Mapping[str, Record] | None = None) -> str:
    """One row a method; columns that say nothing are left out.

    Args:
        rows: of one category.
        first: by method, the record whose text differs first; given for totals only, for it is of all categories.
    """
    lead: tuple[Column, ...] = (
        ("speedup over plain decoding (95% interval)", lambda row: ratio(row, "speedup")),
        ("that is", mark),
    )
    tail: tuple[Column, ...] = (
        ("texts", lambda row: same_text(row, first)),
        ("plan in the end", lambda row: cell(row.get("plan"))),
    )
    columns = [(title, [show(row) for row in rows]) for title, show in (*lead, *COLUMNS, *tail)]
    columns = [(title, cells) for title, cells in columns if any(text != NOTHING for text in cells)]
    body = []
    for index, row in enumerate(rows):
        cells = [f"<td{_kind(title)}>{texts[index]}</td>" for title, texts in columns]
        body.append(f"<tr>{named(row['method'])}{''.join(cells)}</tr>")
    return table(["method", *(title for title, _ in columns)], body)


def speedups_table(rows: Sequence[Row]) -> str:
    """Speedups by method and category; "" if there are no categories."""
    names = categories(rows)
    if not names:
        return ""
    found = {(row["method"], row["category"]): row for row in rows}
    body = []
    for total in totals(rows):
        method = total["method"]
        if method == PLAIN:
            continue
        cells = [_speedup(row) for row in (total, *(found.get((method, name)) for name in names))]
        body.append(f"<tr>{named(method)}{''.join(cells)}</tr>")
    return table(["method", "all", *names], body)


def differences_table(records: Sequence[Record], samples: Sequence[Any]) -> str:
    """By method, where texts differ from plain decoding's; "" if none does."""
    titles = ["method", "texts that differ", "the first of them", "at new token", "token", "logit gap", "largest gap"]
    body = []
    differing = [record for record in records if record.identical is False]
    for method in dict.fromkeys(record.method for record in differing):
        mine = [record for record in differing if record.method == method]
        gaps = [abs(r.difference.logit_gap) for r in mine if r.difference and r.difference.logit_gap is not None]
        one, found = mine[0], mine[0].difference
        where = f"{_sample(one, samples)}, turn {cell(one.turn + 1)}, repeat {cell(one.repeat + 1)}"
        cells = [
            cell(len(mine)),
            where,
            cell(found.position) if found else NOTHING,
            f"{_token(found.token)} in place of {_token(found.plain_token)}" if found else NOTHING,
            cell(found.logit_gap) if found else NOTHING,
            cell(max(gaps)) if gaps else NOTHING,
        ]
        tds = "".join(f"<td{_kind(title)}>{text}</td>" for title, text in zip(titles[1:], cells, strict=True))
        body.append(f"<tr>{named(method)}{tds}</tr>")
    return table(titles, body) if body else ""


def values_table(values: Mapping[str, Any]) -> str:
    """Names and values, objects within objects and lists spelt out."""
    body = []
    for name, value in _flat(values).items():
        shown = ", ".join(cell(item) for item in value) if isinstance(value, list) else cell(value)
        body.append(f'<tr><th scope="row">{escape(name)}</th><td>{shown}</td></tr>')
    return f'<div class="wide"><table class="values"><tbody>{"".join(body)}</tbody></table></div>'


def table(titles: Sequence[str], body: Sequence[str]) -> str:
    """A table of rows that are HTML already, with titles that are not."""
    head = "".join(f'<th scope="col"{_kind(title)}>{escape(title)}</th>' for title in titles)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def first_differences(records: Sequence[Record]) -> dict[str, Record]:
    """By method, the first record whose text is not plain decoding's."""
    found: dict[str, Record] = {}
    for record in records:
        if record.identical is False:
            found.setdefault(record.method, record)
    return found


def _times(value: Any, factor: float) -> float | None:
    found = number(value)
    return None if found is None else found * factor


def _kind(title: str) -> str:
    return ' class="words"' if title in WORDS else ""


def _speedup(row: Row | None) -> str:
    if row is None:
        return f"<td>{NOTHING}</td>"
    words = verdict(row)
    return f'<td class="{kind(words) or "none"}" title="{escape(words)}">{ratio(row, "speedup")}</td>'


def _sample(record: Record, samples: Sequence[Any]) -> str:
    known = samples[record.sample] if 0 <= record.sample < len(samples) else None
    name = known.get("id") if isinstance(known, dict) else None
    return f"{cell(record.data)}, sample {cell(record.sample if name is None else name)}"


def _token(token: int | None) -> str:
    return "the end of the text" if token is None else cell(token)


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found
