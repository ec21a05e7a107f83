import hashlib
import http.server
import json
import re
import shutil
import socket
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conflayers import InputError
from conflayers.bench import hub_files
from conflayers.bench.data import read_data
from conflayers.bench.parquet import read_rows
from conflayers.bench.sources import SOURCES

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def table(path, rows, group=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)


def order(rows, seed=2024):
    return np.random.default_rng(seed).permutation(rows).tolist()


@dataclass
class Hub:
    """A hub of data sets on this machine: a folder for each repository and branch, and what has been asked of it."""

    repos: dict[tuple[str, str], Path] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    commit: str = COMMIT

    def answer(self, path):
        self.asked.append(unquote(path))
        found = re.fullmatch(r"/(api/)?datasets/([^/]+/[^/]+)(?:/(?:revision|resolve)/([^/]+))?(?:/(.+))?", path)
        api, repo, revision, name = found.groups()
        folder = self.repos.get((repo, unquote(revision or "main")))
        if folder is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if api:
            names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
            info = {"id": repo, "sha": self.commit, "siblings": [{"rfilename": file} for file in names]}
            return 200, {"Content-Type": "application/json"}, json.dumps(info).encode()
        raw = (folder / name).read_bytes()
        return 200, {"X-Repo-Commit": self.commit, "ETag": f'"{hashlib.sha256(raw).hexdigest()}"'}, raw


def point_at(port, monkeypatch):
    url = f"http://127.0.0.1:{port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    go_offline(monkeypatch)
    return tmp_path / "hub"


def go_offline(monkeypatch, off=True):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", off)


@pytest.fixture
def served(cache, monkeypatch):
    state = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = state.answer(urlsplit(self.path).path)
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    point_at(server.server_port, monkeypatch)
    go_offline(monkeypatch, False)
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def publish(served, tmp_path, name, files):
    folder = tmp_path / "published" / name
    for path, rows in files.items():
        table(folder / path, rows)
    (folder / "README.md").write_text("not wanted")
    source = SOURCES[name]
    served.repos[source.repo, source.revision or "main"] = folder
    return folder


def school(first, count):
    return [{"question": f" q{n} ", "answer": f"a{n}\n#### {n}"} for n in range(first, first + count)]


def test_questions_are_drawn_behind_drawn_examples_and_found_again_offline(served, tmp_path, monkeypatch):
    folder = publish(
        served,
        tmp_path,
        "gsm8k",
        {
            "main/train-00000-of-00002.parquet": school(100, 6),
            "main/train-00001-of-00002.parquet": school(106, 5),
            "main/test-00000-of-00001.parquet": school(0, 10),
            "socratic/test-00000-of-00001.parquet": school(900, 10),
        },
    )
    data = read_data("gsm8k", 3)
    shots = "".join(f"Question: q{100 + n}\nAnswer: a{100 + n}\n#### {100 + n}\n\n" for n in order(11)[:5])
    drawn = order(10)[:3]
    assert [sample.id for sample in data.samples] == [str(n) for n in drawn]
    assert [sample.turns for sample in data.samples] == [(f"{shots}Question: q{n}\nAnswer:",) for n in drawn]
    assert [sample.reference for sample in data.samples] == [f"a{n}\n#### {n}" for n in drawn]
    assert {(sample.data, sample.category) for sample in data.samples} == {("gsm8k", "gsm8k")}
    assert not any("socratic" in path or "README" in path for path in served.asked)

    asked = len(served.asked)
    go_offline(monkeypatch)
    assert read_data("gsm8k", 3) == data
    longer = read_data("gsm8k")
    assert (len(longer.samples), longer.samples[:3], longer.digest) == (10, data.samples, data.digest)
    assert len(read_data("gsm8k", 99).samples) == 10
    other = read_data("gsm8k", seed=1)
    assert [sample.id for sample in other.samples] == [str(n) for n in order(10, 2025)]
    assert other.digest != data.digest
    assert len(served.asked) == asked

    table(folder / "main/test-00000-of-00001.parquet", school(1, 10))
    served.commit = COMMIT[::-1]
    go_offline(monkeypatch, False)
    assert read_data("gsm8k", 3).digest != data.digest


ROWS = {
    "cnndm": (
        {"article": "Rain fell.", "highlights": "It rained .\nA lot ."},
        "Article: Rain fell.\nSummary: It rained .\nA lot .\n\nArticle: Rain fell.\nSummary:",
        "It rained .\nA lot .",
    ),
    "wmt14": (
        {"translation": {"de": "Guten Tag", "en": "Good day"}},
        "Translate from German into English.\nGerman: Guten Tag\nEnglish:",
        "Good day",
    ),
    "alpaca": ({"instruction": "Add.", "input": "1, 2", "output": "3"}, "Add.\n\n1, 2", "3"),
    "xsum": (
        {"document": "Rain fell.", "summary": "It rained."},
        "Summarise the article in one sentence.\nArticle: Rain fell.\nSummary:",
        "It rained.",
    ),
}
PLACES = {
    "cnndm": ("3.0.0/train-00000-of-00001.parquet", "3.0.0/test-00000-of-00001.parquet"),
    "wmt14": ("de-en/test-00000-of-00001.parquet",),
    "alpaca": ("data/train-00000-of-00001-a09b74b3ef9c3b56.parquet",),
    "xsum": ("default/test/0000.parquet",),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_become_prompts_and_references(served, tmp_path, name):
    row, prompt, reference = ROWS[name]
    publish(served, tmp_path, name, {path: [row] for path in PLACES[name]})
    (sample,) = read_data(name, 5).samples
    assert sample.turns == (prompt,)
    assert sample.reference == reference


def test_an_instruction_without_input_stands_alone_and_an_empty_answer_is_none(served, tmp_path):
    rows = [{"instruction": "Sing.", "input": "", "output": ""}]
    publish(served, tmp_path, "alpaca", {PLACES["alpaca"][0]: rows})
    (sample,) = read_data("alpaca").samples
    assert (sample.turns, sample.reference) == (("Sing.",), None)


def test_rows_are_read_from_the_groups_they_are_in(tmp_path):
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path, first, count in zip(paths, (0, 7), (7, 4), strict=True):
        table(path, [{"n": n} for n in range(first, first + count)], group=3)
    assert read_rows(paths, [10, 0, 6, 7, 3]) == [{"n": n} for n in (10, 0, 6, 7, 3)]
    assert read_rows(paths, []) == []


@pytest.mark.parametrize("name", SOURCES)
def test_what_cannot_be_had_says_so_and_what_can(name):
    with pytest.raises(InputError, match=f"the data set '{name}'.*cannot be fetched.*is not in its cache") as caught:
        read_data(name, 1)
    assert "without a network there are 'prompts'" in str(caught.value)


def test_a_data_set_in_part_is_not_drawn_from(served, tmp_path, cache, monkeypatch):
    files = {f"3.0.0/train-0000{n}-of-00002.parquet": [ROWS["cnndm"][0]] for n in range(2)}
    publish(served, tmp_path, "cnndm", {**files, PLACES["cnndm"][1]: [ROWS["cnndm"][0]]})
    read_data("cnndm")
    go_offline(monkeypatch)
    for path in cache.rglob("train-00001-of-00002.parquet"):
        path.unlink()
    with pytest.raises(InputError, match=r"not all of its files 3\.0\.0/train"):
        read_data("cnndm")
    shutil.rmtree(cache / "datasets--abisee--cnn_dailymail" / "snapshots" / COMMIT / "3.0.0")
    with pytest.raises(InputError, match="is not in its cache here"):
        read_data("cnndm")


@pytest.mark.parametrize("rows", [[{"other": "column"}], [{"question": None, "answer": "a"}]])
def test_rows_of_another_form_are_named(served, tmp_path, rows):
    files = dict.fromkeys(("main/train-00000-of-00001.parquet", "main/test-00000-of-00001.parquet"), rows)
    publish(served, tmp_path, "gsm8k", files)
    with pytest.raises(InputError, match=r"files of the data set 'gsm8k' .* are not as expected"):
        read_data("gsm8k")


def test_a_damaged_file_is_named(served, tmp_path):
    folder = publish(served, tmp_path, "wmt14", {PLACES["wmt14"][0]: [ROWS["wmt14"][0]]})
    (folder / PLACES["wmt14"][0]).write_bytes(b"PAR1 and nothing")
    with pytest.raises(InputError, match=r"files of the data set 'wmt14' .* are not as expected"):
        read_data("wmt14")


def test_a_silent_hub_is_given_up(monkeypatch):
    monkeypatch.setattr(hub_files, "TIMEOUT_SECONDS", 0.2)
    go_offline(monkeypatch, False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        point_at(silent.getsockname()[1], monkeypatch)
        with pytest.raises(InputError, match=r"cannot be fetched from the hub \(timed out\)"):
            read_data("wmt14")


def test_a_missing_or_broken_package_is_named_before_anything_is_fetched(served, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "pyarrow.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"needs the package pyarrow: pip install 'conflayers\[datasets\]'") as caught:
        read_data("alpaca")
    assert "without a network there are 'prompts'" in str(caught.value)
    # What a removal in part leaves behind: a folder without the modules.
    (tmp_path / "pyarrow").mkdir()
    monkeypatch.delitem(sys.modules, "pyarrow")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(InputError, match=r"needs the package pyarrow"):
        read_data("alpaca")
    assert served.asked == []
