"""Published runs against what ideal passes would have given, run by run: what is left is overhead of the code."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conflayers.errors import InputError
from conflayers.predict.prediction import Roofline, predict
from conflayers.predict.roofline import Machine
from conflayers.predict.shapes import named_shape
from conflayers.predict.speedup import mean_length

PLAIN = "vanilla"
# A line has two unknowns, so fewer runs than this would always agree with it.
FEWEST = 3


@dataclass(frozen=True, slots=True)
class Compared:
    """One published run.

    Attributes:
        model, data, method: as published.
        published: speedup over plain decoding, by the seconds where both are given.
        missing: what the file lacks for a prediction, in words; then all of the following are None.
        mean_accepted, acceptance_rate: as published; the draft length follows.
        draft_length, skip_ratio: of the run.
        predicted: speedup if every pass took what the roofline says.
        overhead_share: share of the run's time that ideal passes do not explain; negative where the run was faster.
        overhead_steps: the same for each round, in plain steps of the same code.
        overhead_ms: ... and in milliseconds, where the seconds of plain decoding are given.
        plain_ms: a step of plain decoding as published; None where its seconds are not given.
        ideal_plain_ms: the same by the roofline.
    """

    model: str
    data: str
    method: str
    published: float
    missing: str | None = None
    mean_accepted: float | None = None
    acceptance_rate: float | None = None
    draft_length: float | None = None
    skip_ratio: float | None = None
    predicted: float | None = None
    overhead_share: float | None = None
    overhead_steps: float | None = None
    overhead_ms: float | None = None
    plain_ms: float | None = None
    ideal_plain_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """How the overhead of a round grows with the draft's length, over the runs of one code on one model.

    Attributes:
        model, method: whose.
        runs: how many.
        round_ms, step_ms: milliseconds for each round and for each draft step, by least squares.
        off_ms: the most that a run is off the line.
    """

    model: str
    method: str
    runs: int
    round_ms: float
    step_ms: float
    off_ms: float


def read_runs(path: Path) -> list[dict[str, Any]]:
    """The runs in a file: the entries with a `model` and a `method` of every list in its JSON object.

    Raises:
        InputError: the file cannot be read, or there are none.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the published runs {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no file of published runs: {error}") from error
    lists = [value for value in document.values() if isinstance(value, list)] if isinstance(document, dict) else []
    runs = [
        entry for entries in lists for entry in entries if isinstance(entry, dict) and {"model", "method"} <= set(entry)
    ]
    if not runs:
        raise InputError(f"{path} has no runs: expected a JSON object with a list of objects with `model` and `method`")
    return runs


def compare_published(
    runs: list[dict[str, Any]], machine: Machine, *, tokens: int | None = None, context: int = 0
) -> list[Compared]:
    """Predict every run that says how fast it was, and set the prediction beside what was published.

    Args:
        runs: as in the file: `model` (a name of the table of shapes), `method` ("vanilla" is plain decoding) and, as
            far as known, `data`, `layers`, `layers_skipped` or `skip_ratio`, `mean_accepted_tokens`,
            `acceptance_rate`, `seconds`, `speedup`.
        machine: what the runs are taken to have run on; their ratios hardly depend on it.
        tokens: how many each run generated; None leaves out the milliseconds.
        context: tokens in the cache.

    Raises:
        InputError: a model that the table does not have, or a figure out of range.
    """
    plain = {(run["model"], run.get("data")): run.get("seconds") for run in runs if run["method"] == PLAIN}
    return [
        compared
        for run in runs
        if run["method"] != PLAIN
        and (compared := _compare(run, plain.get((run["model"], run.get("data"))), machine, tokens, context))
    ]


def _compare(
    run: dict[str, Any], plain: float | None, machine: Machine, tokens: int | None, context: int
) -> Compared | None:
    model, data, method = str(run["model"]), str(run.get("data", "")), str(run["method"])
    published = plain / run["seconds"] if plain and run.get("seconds") else run.get("speedup")
    if not isinstance(published, int | float):
        return None
    skip_ratio, missing = _skip_ratio(run), []
    missing += [key for key in ("mean_accepted_tokens", "acceptance_rate") if key not in run]
    if missing or skip_ratio is None:
        return Compared(model, data, method, published, ", ".join(missing + ["skip ratio"] * (skip_ratio is None)))
    passes = Roofline(named_shape(model), machine, context)
    mean_accepted, rate = float(run["mean_accepted_tokens"]), float(run["acceptance_rate"])
    length = mean_length(mean_accepted, rate)
    row = predict(passes, skip_ratio, length, mean_accepted)
    steps = mean_accepted / published - mean_accepted / row.speedup
    plain_ms = plain / tokens * 1e3 if plain and tokens else None
    return Compared(
        model, data, method, published,
        mean_accepted=mean_accepted,
        acceptance_rate=rate,
        draft_length=length,
        skip_ratio=skip_ratio,
        predicted=row.speedup,
        overhead_share=1 - published / row.speedup,
        overhead_steps=steps,
        overhead_ms=steps * plain_ms if plain_ms else None,
        plain_ms=plain_ms,
        ideal_plain_ms=row.plain_ms,
    )  # fmt: skip


def _skip_ratio(run: dict[str, Any]) -> float | None:
    if "skip_ratio" in run:
        return float(run["skip_ratio"])
    if "layers_skipped" in run:
        layers = run.get("layers") or named_shape(str(run["model"])).layers
        return float(run["layers_skipped"]) / float(layers)
    return None


def overhead_lines(compared: list[Compared]) -> list[Line]:
    """For every model and method with enough runs, the line overhead = a + b * draft length that fits best.

    Variants of one method ("conflayers, window 10") are one code.
    """
    import numpy as np

    groups: dict[tuple[str, str], list[Compared]] = {}
    for run in compared:
        if run.overhead_ms is not None and run.draft_length is not None:
            groups.setdefault((run.model, run.method.split(",")[0]), []).append(run)
    found = []
    for (model, method), runs in groups.items():
        lengths = [run.draft_length for run in runs]
        if len(runs) < FEWEST or len(set(lengths)) < 2:
            continue
        design = np.array([[1.0, length] for length in lengths], dtype=np.float64)
        measured = np.array([run.overhead_ms for run in runs], dtype=np.float64)
        (each_round, each_step), *_ = np.linalg.lstsq(design, measured)
        off = float(np.abs(design @ np.array([each_round, each_step]) - measured).max())
        found.append(Line(model, method, len(runs), float(each_round), float(each_step), off))
    return found
