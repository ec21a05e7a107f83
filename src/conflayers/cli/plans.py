"""`conflayers plans`: what saved plans hold, and where two of them differ."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from conflayers.cli.arguments import Json
from conflayers.cli.console import note, out, print_json
from conflayers.errors import InputError, PlanError

if TYPE_CHECKING:
    from conflayers.plan import SavedPlan

app = typer.Typer(no_args_is_help=True, add_completion=False, help="List, show and compare saved plans.")
PlanPath = Annotated[Path, typer.Argument(metavar="FILE", help="A saved plan.", show_default=False)]


@app.command("list")
def list_(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="The folder.", show_default=False)] = Path(),
    as_json: Json = False,
) -> None:
    """List the plans in a folder; other files are passed over."""
    found = plans_in(folder)
    if as_json:
        print_json({"folder": str(folder), "plans": [{"file": name, **values(plan)} for name, plan in found.items()]})
        return
    if not found:
        note(f"no plans in {folder}")
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in ("file", "model", "method", "skips", "speedup"):
        table.add_column(title, justify="right" if title == "speedup" else "left", overflow="fold")
    for name, plan in found.items():
        how = plan.provenance
        speedup = how.get("speedup")
        skips = f"{len(plan.plan.attention)} attn, {len(plan.plan.mlp)} MLP of {plan.model.layers}"
        shown = f"{speedup:.2f}" if isinstance(speedup, int | float) else ""
        table.add_row(name, str(how.get("model", plan.model.architecture)), str(how.get("method", "")), skips, shown)
    out().print(table, soft_wrap=False)


@app.command("show")
def show(file: PlanPath, as_json: Json = False) -> None:
    """Show what a plan skips, which model it is for, and how it was found."""
    from conflayers.plan import read_saved

    saved = read_saved(file)
    if as_json:
        print_json({"file": str(file), **values(saved)})
        return
    out().print(f"{file}: {saved.plan}")
    for title, rows in (("model", values(saved)["model"]), ("how it was found", saved.provenance)):
        out().print(f"{title}:")
        table = Table(box=None, show_header=False, padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in flat(rows).items():
            table.add_row(name, text(value))
        out().print(table, soft_wrap=False)


@app.command("compare")
def compare(one: PlanPath, other: PlanPath, as_json: Json = False) -> None:
    """Show where two plans differ: what they skip, which model they are for, and how they were found."""
    from conflayers.plan import read_saved

    a, b = read_saved(one), read_saved(other)
    document = differences(a, b)
    if as_json:
        print_json({"files": [str(one), str(other)], **document})
        return
    out().print("the same model" if document["same_model"] else "different models: neither plan fits the other's")
    for where, title in (
        ("both", "skipped by both"),
        ("only_first", f"only by {one}"),
        ("only_second", f"only by {other}"),
    ):
        parts = document[where]
        out().print(f"{title}: attention of {numbers(parts['attention'])}; MLP of {numbers(parts['mlp'])}")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in ("", str(one), str(other)):
        table.add_column(title, overflow="fold")
    left, right = (flat({**({} if document["same_model"] else values(x)["model"]), **x.provenance}) for x in (a, b))
    for name in {**left, **right}:
        table.add_row(name, text(left.get(name, "")), text(right.get(name, "")))
    out().print(table, soft_wrap=False)


def plans_in(folder: Path) -> "dict[str, SavedPlan]":
    """File name -> plan, by name, of every plan right in `folder`.

    Raises:
        InputError: there is no such folder.
    """
    from conflayers.plan import read_saved

    if not folder.is_dir():
        raise InputError(f"no folder {folder}")
    found: dict[str, SavedPlan] = {}
    for path in sorted(folder.iterdir()):
        if not path.is_file():
            continue
        try:
            found[path.name] = read_saved(path)
        except PlanError:
            continue
    return found


def values(saved: "SavedPlan") -> dict[str, Any]:
    """A saved plan as plain values."""
    from dataclasses import asdict

    return {"model": asdict(saved.model), **saved.plan.as_dict(), "provenance": saved.provenance}


def differences(a: "SavedPlan", b: "SavedPlan") -> dict[str, Any]:
    """Where two plans agree and where they do not."""

    def parts(attention: frozenset[int], mlp: frozenset[int]) -> dict[str, list[int]]:
        return {"attention": sorted(attention), "mlp": sorted(mlp)}

    first, second = a.plan, b.plan
    return {
        "same_model": a.model == b.model,
        "same_plan": first == second,
        "both": parts(first.attention & second.attention, first.mlp & second.mlp),
        "only_first": parts(first.attention - second.attention, first.mlp - second.mlp),
        "only_second": parts(second.attention - first.attention, second.mlp - first.mlp),
        "provenance": [a.provenance, b.provenance],
    }


def flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Objects within objects as one, their names joined by points."""
    rows: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            rows |= flat(value, f"{before}{name}.")
        else:
            rows[before + name] = value
    return rows


def numbers(indices: list[int]) -> str:
    """Layer numbers in words."""
    return ", ".join(map(str, indices)) or "none"


def text(value: Any) -> str:
    """A value of a provenance, short enough for a cell."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
