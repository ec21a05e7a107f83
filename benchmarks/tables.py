"""The tables of the README and of two pages of docs: runs `conflayers bench` for each, and writes what came of it
between the marks of the pages.

    python benchmarks/tables.py [NAME ...] [--draw]

Without names, all of them. What has been done lies in build/tables, from where an interrupted run goes on; the rows,
with their settings and where they come from, are kept in benchmarks/results. `--draw` runs nothing and draws the tables
from there.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
KEPT, WORK = ROOT / "benchmarks" / "results", ROOT / "build" / "tables"
README, REPRODUCTION, PREDICTION = ROOT / "README.md", ROOT / "docs" / "reproduction.md", ROOT / "docs" / "predict.md"
Document = dict[str, Any]

RULE = [f"conflayers:variant=rule:lam={lam}" for lam in (-0.4, 0, 0.4)]
OTHERS = ["conflayers:variant=paper", "clasp", "knapspec", "swift", "cosine", "uniform:skip_ratio=0.5"]
TITLES = {
    "vanilla": "plain decoding",
    "hf": "transformers `generate`",
    "hf-lookup": "transformers, prompt lookup",
    "hf-early-exit": "transformers, early exit",
    "llamacpp": "llama.cpp, the same weights",
    "auto": "**auto**, the default",
    "lookup": "lookup alone",
    "view:precision=int8": "all layers in int8",
    "view:precision=int4": "all layers in int4",
    "conflayers": "**ConfLayers**, nothing set",
    "conflayers:variant=paper": "ConfLayers, `variant=paper`",
    "clasp": "CLaSp",
    "knapspec": "KnapSpec",
    "swift": "SWIFT",
    "cosine": "cosine",
    "draft-verify:draft-verify": "Draft & Verify, searched beforehand",
    "fixed:own": "plan searched on the same data",
    "fixed:other": "plan searched on HumanEval",
    "fixed:oracle": "best set of a greedy search beforehand",
    "uniform:skip_ratio=0.5": "`uniform`, every second layer",
    "random": "`random` sublayers",
    **{name: f"its rule, lambda {name.rpartition('=')[2]} by hand" for name in RULE},
}


@dataclass(frozen=True, slots=True)
class Run:
    """One call of `conflayers bench`.

    Attributes:
        title: of its column, where tables have a column a run.
        model, methods: as on the command line.
        options: the others.
        plans: rows that draft by a plan: name -> method, and the command that writes the plan to {out}.
        predicted: predict the run afterwards, by `conflayers predict --results`.
        compiled: whether short passes run compiled operators. Without them layers are what costs, as in large models.
    """

    title: str
    model: str
    methods: Sequence[str]
    options: Sequence[str]
    plans: Mapping[str, tuple[str, Sequence[str]]] = field(default_factory=dict)
    predicted: bool = False
    compiled: bool = True


def _words(text: str) -> list[str]:
    return text.split()


def _searched(model: str, data: str, options: str) -> list[str]:
    """The command that finds a plan beforehand, on the first prompts of the data."""
    words = f"-m conflayers search {model} --data {data} --dtype float32 --threads 1 --out {{out}} {options}"
    return _words(words)


def _guarded(methods: Sequence[str]) -> list[str]:
    return [f"{method}:fallback=true" for method in methods]


HELD_OUT = "tests/zoo/held_out.jsonl"
EACH = "--max-new-tokens 128 --dtype float32 --threads 1 --no-memory"
PEERS = ["hf", "hf-lookup"]
DRAFTS = ["conflayers", "view:precision=int8", "view:precision=int4", "lookup"]
ZOO = ["hf", "conflayers", *RULE, *OTHERS]


def _draft_verify(model: str, method: str = "draft-verify") -> dict[str, tuple[str, Sequence[str]]]:
    return {"draft-verify": (method, _searched(model, HELD_OUT, "--method draft-verify --budget 90"))}


def _zoo(title: str, name: str) -> Run:
    model = f"tests/zoo/{name}"
    plans = _draft_verify(model)
    return Run(
        title, model, ZOO, _words(f"--data {HELD_OUT} --limit 50 {EACH}"), plans | _oracle(model), compiled=False
    )


def _few(title: str, name: str) -> Run:
    """The zoo's models by the methods that matter most."""
    methods = ["hf", "auto", "conflayers", *RULE, "clasp", "lookup", "uniform:skip_ratio=0.5"]
    model = f"tests/zoo/{name}"
    return Run(title, model, methods, _words(f"--data {HELD_OUT} --limit 50 {EACH}"), _oracle(model))


def _oracle(model: str) -> dict[str, tuple[str, Sequence[str]]]:
    return {"oracle": ("fixed", _words(f"benchmarks/oracle.py {model} --threads 1 --out {{out}}"))}


SWEEPS = ("lambda", "window", "skip-ratio", "interval", "context-window", "confidence")
RUNS = {
    "zoo-16": _zoo("16 layers", "dropout-16"),
    "zoo-24": _zoo("24 layers", "dropout-24"),
    "few-16": _few("16 layers", "dropout-16"),
    "few-24": _few("24 layers", "dropout-24"),
    "control": Run(
        "control, 16 layers without layer dropout",
        "tests/zoo/control-16",
        ["hf", "auto", "conflayers", *_guarded([*RULE, *OTHERS, "random"])],
        _words(f"--data {HELD_OUT} --limit 50 {EACH}"),
        _draft_verify("tests/zoo/control-16", "draft-verify:fallback=true"),
    ),
    "smollm2": Run(
        "SmolLM2-135M",
        "smollm2",
        ["hf", "hf-lookup", "auto", "conflayers", *_guarded([*RULE, *OTHERS])],
        _words("--data prompts --limit 6 --max-new-tokens 128 --dtype float32 --threads 2"),
    ),
    "bf16": Run(
        "SmolLM2-135M",
        "smollm2",
        [*PEERS, "auto", *DRAFTS],
        _words("--data prompts --limit 12 --max-new-tokens 128 --dtype bfloat16 --threads 2"),
    ),
    "specbench": Run(
        "SmolLM2-135M",
        "smollm2",
        [*PEERS, "auto", "conflayers", "view:precision=int4"],
        _words("--data {questions} --max-new-tokens 128 --dtype bfloat16 --threads 2 --no-memory"),
    ),
    "accelerator": Run(
        "SmolLM2-135M",
        "smollm2",
        ["auto", "conflayers", "lookup", "view:precision=int8"],
        _words("--data {questions} --max-new-tokens 128 --dtype bfloat16 --device cuda --no-memory"),
    ),
    "sweeps": Run(
        "24 layers",
        "tests/zoo/dropout-24",
        ["conflayers"],
        _words(f"--data {HELD_OUT} --limit 12 {EACH} {' '.join(f'--sweep {name}' for name in SWEEPS)}"),
        compiled=False,
    ),
    "predicted": Run(
        "24 layers",
        "tests/zoo/dropout-24",
        ["uniform:skip_ratio=0.5", RULE[0], RULE[2], "conflayers", "swift", "clasp", "cosine"],
        _words(f"--data {HELD_OUT} --limit 12 --repeat 2 {EACH}"),
        predicted=True,
    ),
    "switch": Run(
        "24 layers",
        "tests/zoo/dropout-24",
        ["conflayers", "swift", "clasp"],
        _words(f"--data {HELD_OUT},humaneval,{HELD_OUT} --limit 10 {EACH}"),
        {
            "own": ("fixed", _searched("tests/zoo/dropout-24", HELD_OUT, "--budget 30")),
            "other": ("fixed", _searched("tests/zoo/dropout-24", "humaneval", "--budget 30")),
        },
        compiled=False,
    ),
}


def run(name: str, given: Mapping[str, str | None] | None = None) -> Document:
    """Run what is missing, and keep the rows.

    Args:
        given: files that are not the project's: `questions`, `gguf`.
    """
    given = given or {}
    wanted, folder = RUNS[name], WORK / name
    folder.mkdir(parents=True, exist_ok=True)
    methods = list(wanted.methods)
    for plan, (method, command) in wanted.plans.items():
        out = folder / f"{plan}.json"
        if not out.exists():
            _call([word.format(out=out) for word in command], compiled=wanted.compiled)
        methods.append(f"{method}:plan={out.relative_to(ROOT)}")
    if given.get("gguf") and "{questions}" in wanted.options:
        methods.append(f"llamacpp:file={given['gguf']}")
    options = [word.format(**given) for word in wanted.options]
    words = ["-m", "conflayers", "bench", wanted.model, "--methods", ",".join(methods), *options]
    _call([*words, "--out", str(folder.relative_to(ROOT))], compiled=wanted.compiled)
    document = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    if wanted.predicted:
        said = _call(["-m", "conflayers", "predict", wanted.model, "--results", str(folder)], subprocess.PIPE)
        document["predicted"] = json.loads(said.splitlines()[-1])
    kept = {key: document[key] for key in ("format", "settings", "provenance", "memory", "restarts", "rows")}
    kept |= {key: document[key] for key in ("predicted",) if key in document}
    KEPT.mkdir(exist_ok=True)
    (KEPT / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return kept


def _call(words: Sequence[str], output: int | None = None, *, compiled: bool = True) -> str:
    print("$ python", " ".join(words), file=sys.stderr, flush=True)
    environment = dict(os.environ) | ({} if compiled else {"CONFLAYERS_NATIVE": "0"})
    done = subprocess.run([sys.executable, *words], cwd=ROOT, check=True, stdout=output, text=True, env=environment)
    return done.stdout or ""


def single(documents: Mapping[str, Document]) -> str:
    """A table of one run, everything in it."""
    (document,) = documents.values()
    lines = _heads("", "tokens/s", "over plain [95%]", "over hf", "accepted a pass", "rate", "skipped", "search", "MB")
    for row in _totals(document):
        lines.append(
            _line(
                _title(row["method"]),
                f"{row['tokens_per_second']:.1f}",
                _ratio(row),
                _number(row["speedup_over_hf"]),
                _number(row["mean_accepted_tokens"]),
                _number(row["acceptance_rate"]),
                f"{row['skip_ratio']:.2f}" if row["skip_ratio"] else "",
                f"{row['select_share']:.1%}" if row["select_share"] else "",
                "" if row["peak_memory_mb"] is None else f"{row['peak_memory_mb']:.0f}",
            )
        )
    return "\n".join([*lines, "", _caption(documents)])


def side_by_side(documents: Mapping[str, Document]) -> str:
    """A table of several runs: what each method gained and what its search took."""
    titles = [title for name in documents for title in (RUNS[name].title, "search")]
    lines = _heads("over plain [95%]", *titles)
    found = {name: {_bare(row["method"]): row for row in _totals(document)} for name, document in documents.items()}
    names = list(dict.fromkeys(method for rows in found.values() for method in rows))
    for method in names:
        if method == "vanilla":
            continue
        cells = []
        for rows in found.values():
            row = rows.get(method)
            cells += ["", ""] if row is None else [_ratio(row), f"{row['select_share']:.1%}"]
        lines.append(_line(_title(method), *cells))
    return "\n".join([*lines, "", _caption(documents)])


def predictions(documents: Mapping[str, Document]) -> str:
    """A table of what was predicted from counts and rounds timed apart, and what was measured."""
    (document,) = documents.values()
    lines = _heads(
        "", "predicted", "measured", "difference", "drafts of", "acceptance", "skipped", "search, not predicted"
    )
    for row in document["predicted"]["rows"]:
        lines.append(
            _line(
                _title(row["method"]),
                f"{row['predicted']:.3f}",
                f"{row['measured']:.3f}",
                f"{row['difference']:+.1%}",
                f"{row['draft_length']:.2f}",
                f"{row['acceptance']:.2f}",
                f"{row['skip_ratio']:.2f}",
                f"{row['select_share']:.1%}",
            )
        )
    return "\n".join([*lines, "", _caption(documents)])


def by_stretch(documents: Mapping[str, Document]) -> str:
    """A table of one run over several data sets: what each method gained on each of them."""
    (document,) = documents.values()
    stretches = document["settings"]["data"]
    rows = {(_bare(row["method"]), row["category"]): row for row in document["rows"]}
    lines = _heads("over plain [95%]", *(name.replace("held_out.jsonl", "library") for name in stretches), "all")
    for row in _totals(document):
        name = _bare(row["method"])
        if name != "vanilla":
            lines.append(_line(_title(row["method"]), *(_ratio(rows[name, one]) for one in (*stretches, "all"))))
    return "\n".join([*lines, "", _caption(documents)])


@dataclass(frozen=True, slots=True)
class Table:
    """Where runs are shown, and how."""

    page: Path
    draw: Callable[[Mapping[str, Document]], str]
    runs: tuple[str, ...]


TABLES = {
    "bf16": Table(README, single, ("bf16",)),
    "specbench": Table(README, single, ("specbench",)),
    "accelerator": Table(README, single, ("accelerator",)),
    "smollm2": Table(README, single, ("smollm2",)),
    "zoo": Table(README, side_by_side, ("zoo-16", "zoo-24")),
    "few": Table(README, side_by_side, ("few-16", "few-24")),
    "control": Table(README, side_by_side, ("control",)),
    "sweeps": Table(REPRODUCTION, single, ("sweeps",)),
    "predicted": Table(PREDICTION, predictions, ("predicted",)),
    "switch": Table(REPRODUCTION, by_stretch, ("switch",)),
}


def drawn(text: str, page: Path) -> str:
    """A page with its tables drawn anew from what is kept; tables of runs that were never made stay."""
    for name, table in TABLES.items():
        files = {run: KEPT / f"{run}.json" for run in table.runs}
        if table.page != page or not all(file.exists() for file in files.values()):
            continue
        documents = {run: json.loads(file.read_text(encoding="utf-8")) for run, file in files.items()}
        pattern = rf"(<!-- table {name} -->\n).*?(<!-- end -->)"
        if not re.search(pattern, text, re.DOTALL):
            raise SystemExit(f"{page.name} has no place for the table {name!r}")
        lines = table.draw(documents)
        text = re.sub(pattern, lambda match, lines=lines: f"{match[1]}{lines}\n{match[2]}", text, flags=re.DOTALL)
    return text


def _totals(document: Document) -> list[dict[str, Any]]:
    return [row for row in document["rows"] if row["category"] == "all"]


def _bare(method: str) -> str:
    """Without the folder of a plan, which differs from run to run."""
    name, plan, file = method.partition(":plan=")
    name = f"{name}:{Path(file).stem}" if plan else name
    return "llamacpp" if name.startswith("llamacpp:") else name


def _title(method: str) -> str:
    bare = _bare(method).replace(":fallback=true", "")
    return TITLES.get(bare, f"`{bare}`") + (", with fallback" if ":fallback=true" in method else "")


def _ratio(row: Mapping[str, Any]) -> str:
    interval = row["speedup_interval"]
    if row["method"] == "vanilla":
        return "1"
    return f"{row['speedup']:.2f}" + ("" if interval is None else f" [{interval[0]:.2f}, {interval[1]:.2f}]")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _caption(documents: Mapping[str, Document]) -> str:
    """The settings, and whether the texts were the same."""
    first = next(iter(documents.values()))
    settings, source = first["settings"], first["provenance"]
    rows = [row for document in documents.values() for row in _totals(document)]
    differing = [f"{_title(row['method'])} {row['differing']}" for row in rows if row["identical"] is False]
    parts = [
        settings["dtype"],
        *_where(settings, source),
        *(["torch's operators"] if settings.get("why_not_compiled") else []),
        f"{rows[0]['requests']} requests of at most {settings['max_new_tokens']} new tokens",
        f"torch {source['versions']['torch']}",
        f"transformers {source['versions']['transformers']}",
        f"revision {source['git']}",
    ]
    same = f"Texts that differ: {', '.join(differing)}" if differing else "All texts were those of plain decoding"
    return f"{', '.join(parts)}. {same}."


def _where(settings: Mapping[str, Any], source: Mapping[str, Any]) -> list[str]:
    if source["accelerator"] and settings["device"] != "cpu":
        return [source["accelerator"]]
    threads = settings["threads"]
    return [f"{settings['device'].upper()} ({source['processor']})", f"{threads} thread" + ("s" if threads > 1 else "")]


def _heads(*titles: str) -> list[str]:
    return [_line(*titles), _line(*["---"] * len(titles))]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _run_all(names: Sequence[str], files: Mapping[str, str | None]) -> None:
    began = time.monotonic()
    for name in names:
        if "{questions}" in RUNS[name].options and not files["questions"]:
            print(f"{name} is left out: it needs --questions FILE", file=sys.stderr)
            continue
        if "cuda" in RUNS[name].options and not torch.cuda.is_available():
            print(f"{name} is left out: it needs a CUDA device", file=sys.stderr)
            continue
        run(name, files)
        print(f"{name} is done, {(time.monotonic() - began) / 60:.1f} minutes after the start", file=sys.stderr)


def main() -> None:
    """Run, keep and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(RUNS)}; all by default")
    parser.add_argument("--questions", help="questions of Spec-Bench, as JSON Lines")
    parser.add_argument("--gguf", help="the weights of SmolLM2 in bfloat16, for llama.cpp")
    parser.add_argument("--draw", action="store_true", help="run nothing")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in RUNS]
    if unknown:
        parser.error(f"no run {unknown[0]!r}; there are: {', '.join(RUNS)}")
    files = {"questions": given.questions, "gguf": given.gguf}
    if not given.draw:
        _run_all(given.names or list(RUNS), files)
    for page in (README, REPRODUCTION, PREDICTION):
        page.write_text(drawn(page.read_text(encoding="utf-8"), page), encoding="utf-8")


if __name__ == "__main__":
    main()
