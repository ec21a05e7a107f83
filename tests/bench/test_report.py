import base64
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
from made_results import plain_row, record, results, row
from PIL import Image
from typer.testing import CliRunner

from conflayers.bench import figures, figures_drafts
from conflayers.bench.look import LIGHT, Look, styles
from conflayers.bench.page import Picture, page
from conflayers.bench.record import Difference
from conflayers.bench.report import write
from conflayers.bench.results import Results
from conflayers.cli import bench_report
from conflayers.errors import InputError

EVIL = "</script><script>alert(1)</script>:a=\"b\" 'c' & $x_1^$ http://evil.example/\x1b\n"
CATEGORIES = ("questions: trivia", "code")
app = typer.Typer()
app.command()(bench_report.run)


class Page(HTMLParser):
    """Elements, what they refer to, and the texts of table cells by row."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.references: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        self.references += [value for name, value in attrs if name in ("src", "srcset", "href", "action", "data")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_data(self, data):
        self.text += data
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data

    def row(self, name: str) -> list[str]:
        return next([cell.strip() for cell in cells] for cells in self.rows if cells[0].strip() == name)


def records(methods=("vanilla", "m"), repeats=1):
    return [
        record(method, sample, 2.0 if method == "vanilla" else 1.0, repeat=repeat, identical=None)
        for repeat in range(repeats)
        for sample in range(3)
        for method in methods
    ]


def full(name: str = "m") -> Results:
    """Two methods, two categories, two data sets, everything there is to show."""
    lambdas = [f"{name}:lam={value}" for value in (-0.2, 0.2)]
    rows = [
        made
        for category in ("all", *CATEGORIES)
        for made in (plain_row(category), row(name, category), *(row(one, category, speedup=0.9) for one in lambdas))
    ]
    return results(records(("vanilla", name, *lambdas)), rows, model=name, data=[name, "code"])


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, list[Path]]:
    folder = tmp_path_factory.mktemp("evil")
    full(EVIL).save(folder)
    return folder, write(folder)


def test_the_plots_are_files_and_in_the_page(written):
    folder, files = written
    names = ["categories", "stream", "skipping", "lambda", "phases", "accepted", "positions"]
    assert [file.name for file in files] == ["report.html", *(f"report-{name}.png" for name in names)]
    assert sorted(file.name for file in folder.iterdir()) == sorted(["results.json", *(file.name for file in files)])
    html = files[0].read_text(encoding="utf-8")
    for file in files[1:]:
        assert base64.b64encode(file.read_bytes()).decode() in html
        assert Image.open(io.BytesIO(file.read_bytes())).size[0] == 1440


def test_the_page_asks_for_nothing_and_runs_nothing(written):
    html = written[1][0].read_text(encoding="utf-8")
    found = Page(html)
    assert found.tags.isdisjoint({"script", "link", "iframe", "object", "embed", "base", "form"})
    # A light and a dark picture for each of seven plots.
    assert len(found.references) == 14
    assert all(reference.startswith("data:image/png;base64,") for reference in found.references)
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_names_are_text_wherever_they_stand(written):
    html = written[1][0].read_text(encoding="utf-8")
    assert "<script" not in html
    found = Page(html)
    assert "alert(1)" in found.row(EVIL.strip())[0]
    assert f"Benchmark of {EVIL}" in found.text


def drawn(made: Results) -> Page:
    picture = Picture("p", "<b>title</b>", "<i>caption</i>", b"light", b"dark")
    return Page(page(made, [picture]))


def test_the_head_says_on_what_it_was_measured():
    found = drawn(full())
    assert "Measured on the CPU (Fast <CPU>), 2 threads, float32, at most 100 new tokens, 1 repeat." in found.text
    assert found.row("digests.questions") == ["digests.questions", "11"]
    assert found.row("versions.torch")[1] == "2.6.0"
    assert found.row("command")[1] == "conflayers bench 'a model'"
    assert found.row("threads")[1] == "2"
    assert "not finished" not in found.text
    on_gpu = drawn(results([], device="cuda:0", finished=None))
    assert "Measured on cuda:0" in on_gpu.text
    assert "This benchmark is not finished" in on_gpu.text


def test_interruptions_are_told():
    made = full()
    made.restarts = [3, 7]
    assert "interrupted 2 times, after 3, 7 records" in drawn(made).text


def test_rows_that_lose_are_there_and_marked():
    rows = [
        plain_row(),
        row("won"),
        row("lost", speedup=0.8, speedup_interval=[0.7, 0.95]),
        row("unsure", speedup=0.99, speedup_interval=[0.9, 1.1]),
        row("single", speedup=0.97, speedup_interval=None),
    ]
    found = drawn(results(records(), rows))
    assert found.row("won")[1:3] == ["1.50 1.40 to 1.60", "faster than plain decoding"]
    assert found.row("lost")[1:3] == ["0.80 0.70 to 0.95", "slower than plain decoding"]
    assert found.row("unsure")[1:3] == ["0.99 0.90 to 1.10", "no difference shown"]
    assert found.row("single")[1:3] == ["0.97", "slower than plain decoding (no interval)"]
    assert found.row("vanilla")[2] == "plain decoding itself"
    assert (
        "Of 4 methods: 1 faster than plain decoding, 1 slower, 1 with no difference shown, 1 with too few" in found.text
    )


def test_texts_that_differ_are_marked_with_the_first_difference():
    made = results(records(), [plain_row(), row("m", identical=False, differing=2)])
    made.records[3].identical, made.records[3].difference = False, Difference(7, 5, 6, 0.000125)
    made.records[5].identical, made.records[5].difference = False, Difference(2, None, 9, None)
    found = drawn(made)
    assert "2 of 3 differ first at new token 7, logit gap 0.000125" in found.row("m")
    table = [cells for cells in found.rows if cells[0] == "m"][1]
    first = "questions, sample q2, turn 1, repeat 1"
    table[-1] = table[-1].split("\n")[0]
    assert table == ["m", "2", first, "7", "5 in place of 6", "0.000125", "0.000125"]


def test_what_was_not_measured_has_no_column():
    made = results(records(), [plain_row(), row("m")])
    head = drawn(made).rows[0]
    assert "speedup over transformers" not in head
    assert "peak memory, MB" not in head
    assert "By category" not in drawn(made).text
    made.rows[1].update(speedup_over_hf=1.25, speedup_over_hf_interval=[1.2, 1.3], peak_memory_mb=900.0)
    found = drawn(made)
    at = found.rows[0].index("speedup over transformers")
    assert found.row("m")[at] == "1.25 1.20 to 1.30"
    assert found.row("vanilla")[at] == "–"  # noqa: RUF001
    assert found.row("m")[found.rows[0].index("peak memory, MB")] == "900"


def test_repeats_are_shown_beside_each_other():
    made = results(records(repeats=2), [plain_row(), row("m", speedup_by_repeat=[1.4, None])])
    found = drawn(made)
    assert found.row("m")[found.rows[0].index("by repeat")] == "1.40, –"  # noqa: RUF001


def test_categories_have_a_table_of_speedups_and_all_numbers():
    found = drawn(full())
    head = next(cells for cells in found.rows if cells[:2] == ["method", "all"])
    assert head == ["method", "all", *CATEGORIES]
    assert sum("acceptance rate" in cells for cells in found.rows) == 3


def test_no_rows_make_a_page_that_says_so(tmp_path):
    results([]).save(tmp_path)
    assert write(tmp_path) == [tmp_path / "report.html"]
    found = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "There are no rows" in found.text
    assert found.references == []
    assert found.row("versions.torch")[1] == "2.6.0"


@pytest.mark.parametrize("value", [None, "x", float("nan"), [], {}, True, 10**400])
def test_anything_may_be_missing_or_odd(value):
    odd = dict.fromkeys(row("m"), value) | {"method": "m", "category": "all"}
    rows = [plain_row(), odd, {"method": "bare", "category": "all"}, odd | {"category": "c"}]
    assert drawn(results([], rows)).row("bare")
    look = Look(LIGHT, styles(["m", "bare"]))
    rows = [one for one in rows if one["method"] != "vanilla"]
    for draw in (figures.by_category, figures.by_phase, figures.along_lambda):
        assert draw(look, rows) is None
    for draw in (figures_drafts.acceptance_by_skipping, figures_drafts.accepted_lengths):
        assert draw(look, rows) is None
    assert figures_drafts.acceptance_by_position(look, rows) is None


@pytest.mark.parametrize("rows", [["x"], [{"method": "m"}], [{"method": 1, "category": "all"}]])
def test_rows_that_are_none_are_refused(rows):
    with pytest.raises(InputError, match="damaged"):
        drawn(results([], rows))


def test_plain_decoding_alone_has_its_phases_and_no_other_plot(tmp_path):
    results(records(("vanilla",)), [plain_row()]).save(tmp_path)
    assert [file.name for file in write(tmp_path)] == ["report.html", "report-phases.png"]


def test_the_command_writes_where_it_is_told(tmp_path):
    made, elsewhere = tmp_path / "made", tmp_path / "elsewhere"
    elsewhere.mkdir()
    results(records(("vanilla",)), [plain_row()]).save(made)
    result = CliRunner().invoke(app, [str(made), "--out", str(elsewhere / "a.html")])
    assert result.stdout == f"{elsewhere / 'a.html'}\n"
    assert "plots beside it: report-phases.png" in result.stderr
    assert sorted(file.name for file in elsewhere.iterdir()) == ["a.html", "report-phases.png"]
    assert [file.name for file in made.iterdir()] == ["results.json"]


def test_places_that_cannot_be_written_or_read_are_errors(tmp_path):
    results([]).save(tmp_path)
    with pytest.raises(InputError, match="it is a folder"):
        write(tmp_path, tmp_path)
    with pytest.raises(InputError, match="cannot write the report"):
        write(tmp_path, tmp_path / "no" / "a.html")
    with pytest.raises(InputError, match="there are no results"):
        write(tmp_path / "nothing")
    path = tmp_path / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(InputError, match="format 2"):
        write(tmp_path)


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    results([]).save(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"pip install 'conflayers\[plot\]'"):
        write(tmp_path)
    assert not (tmp_path / "report.html").exists()
