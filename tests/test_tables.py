"""The tables of the pages are those that the kept results make, and no line of them is written by hand."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
assert _spec is not None
assert _spec.loader is not None
tables = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tables)


@pytest.mark.parametrize("page", [tables.README, tables.REPRODUCTION, tables.PREDICTION])
def test_pages_show_what_was_measured(page):
    text = page.read_text(encoding="utf-8")
    assert tables.drawn(text, page) == text
    assert tables.drawn(text.replace("1.0", "1.1"), page) != text.replace("1.0", "1.1")


@pytest.mark.parametrize("name", tables.RUNS)
def test_results_are_kept_with_their_settings(name):
    document = json.loads((tables.KEPT / f"{name}.json").read_text(encoding="utf-8"))
    assert document["settings"]["methods"][0] == "vanilla"
    assert document["provenance"]["finished"] is not None
    assert document["provenance"]["versions"]["torch"]
    wanted = {method.partition(":plan=")[0] for method in tables.RUNS[name].methods}
    assert wanted <= {row["method"].partition(":plan=")[0] for row in document["rows"]}
