"""`conflayers predict`: the speedup to expect, for models that cannot be run here."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conflayers.cli.console import busy, load_model, out, print_json
from conflayers.errors import InputError

if TYPE_CHECKING:
    from conflayers.predict.measured import Checked
    from conflayers.predict.prediction import Given, Prediction, Roofline

Model = Annotated[
    str | None,
    typer.Argument(help="A name such as llama-3-70b, a folder with a config.json, or a hub id.", show_default=False),
]
Accelerator = Annotated[str | None, typer.Option(metavar="NAME", help="Such as h100-sxm or rtx-4090.")]
Bandwidth = Annotated[float | None, typer.Option(metavar="GB/S", help="Of its memory, instead of a name.")]
Tflops = Annotated[float | None, typer.Option(metavar="T", help="Its TFLOP/s of dense 16-bit products.")]
Launch = Annotated[
    float | None, typer.Option(metavar="US", help="Microseconds to launch a kernel: 6; 0 for captured graphs.")
]
Devices = Annotated[int | None, typer.Option(min=1, metavar="N", help="Devices that share every matrix: 1.")]
AllReduce = Annotated[
    float | None, typer.Option(metavar="US", help="Microseconds they take to add up, once a sublayer: 10.")
]
WeightDtype = Annotated[
    str | None, typer.Option("--dtype", help="Of the layers' weights: bfloat16 (default), float16, int8 or int4.")
]
Context = Annotated[int | None, typer.Option(min=0, metavar="N", help="Tokens in the cache: 512.")]
Costs = Annotated[
    str | None, typer.Option(metavar="PLAIN,DRAFT,VERIFY", help="Milliseconds you measured, instead of an accelerator.")
]
Acceptance = Annotated[
    float | None, typer.Option(metavar="A", help="Per drafted token; with --mean-accepted, accepted over drafted.")
]
MeanAccepted = Annotated[
    float | None, typer.Option(metavar="M", help="New tokens a verification: the draft length is (M - 1) / A.")
]
DraftLength = Annotated[str | None, typer.Option(metavar="G", help="Draft steps a round, or several: 2,4,8.")]
SkipRatio = Annotated[str | None, typer.Option(metavar="R", help="Share of sublayers skipped, or several: 0.3,0.5.")]
Overhead = Annotated[float | None, typer.Option(metavar="MS", help="What a draft step takes besides its pass: 0.")]
Benchmark = Annotated[
    Path | None,
    typer.Option("--results", metavar="DIR", help="Check predictions against what `conflayers bench` measured here."),
]


def run(
    model: Model = None,
    accelerator: Accelerator = None,
    bandwidth: Bandwidth = None,
    tflops: Tflops = None,
    launch: Launch = None,
    devices: Devices = None,
    all_reduce: AllReduce = None,
    dtype: WeightDtype = None,
    context: Context = None,
    costs: Costs = None,
    acceptance: Acceptance = None,
    mean_accepted: MeanAccepted = None,
    draft_length: DraftLength = None,
    skip_ratio: SkipRatio = None,
    overhead: Overhead = None,
    results: Benchmark = None,
) -> None:
    """Predict the speedup of drafting with a part of the model; the last line is one JSON document.

    With --results, predict the runs of a benchmark made on this machine from their counts and from what rounds take
    now, and say how far off that is.
    """
    given = {name: value for name, value in locals().items() if name != "results"}
    if results is not None:
        refuse("--results takes all but MODEL from the benchmark", given, [name for name in given if name != "model"])
        check_results(results, model)
        return
    for name in ("acceptance", "skip_ratio") if costs else ("model", "acceptance", "skip_ratio"):
        if given[name] is None:
            raise InputError(f"{option(name)} is missing: a prediction needs a model, --acceptance and --skip-ratio")
    predict(given)


def predict(given: dict[str, Any]) -> None:
    """Print the table and the document of what was asked for, by the names of `run`."""
    from conflayers.predict.assumptions import assumptions
    from conflayers.predict.prediction import table

    ratios = numbers("skip_ratio", given["skip_ratio"], float)
    lengths = numbers("draft_length", given["draft_length"], int) if given["draft_length"] else []
    acceptance, mean_accepted, overhead = given["acceptance"], given["mean_accepted"], given["overhead"] or 0.0
    roofline = None if given["costs"] else rooflines(given)
    passes = roofline or measured(given, ratios)
    rows = table(passes, ratios, lengths, acceptance, mean_accepted=mean_accepted, overhead=overhead / 1e3)
    assumed = assumptions(roofline, acceptance, mean_accepted, overhead)
    show(given["model"], rows, assumed)
    asked = {"model": given["model"], "acceptance": acceptance, "mean_accepted": mean_accepted, "overhead_ms": overhead}
    machine = roofline.as_dict() if roofline else {}
    print_json({**asked, **machine, "assumptions": assumed, "rows": [asdict(row) for row in rows]})


def show(model: str | None, rows: list["Prediction"], assumed: list[str]) -> None:
    """The table for people, and what it rests on."""
    out().print(f"Predicted{f' for {model}' if model else ''}; times in ms, * the best draft length")
    out().print(" skip   draft  tokens    plain     step   verify    round  tokens/s  speedup   break even")
    for row in rows:
        even = "none" if row.break_even is None else f"{row.break_even:.3f}"
        out().print(
            f"{row.skip_ratio:5.2f}  {row.draft_length:6.4g}  {row.tokens:6.2f}  {row.plain_ms:7.2f}  "
            f"{row.draft_step_ms:7.2f}  {row.verification_ms:7.2f}  {row.round_ms:7.2f}  {row.tokens_per_second:8.1f}  "
            f"{row.speedup:7.3f} {'*' if row.best else ' '} {even:>10}"
        )
    out().print(
        "tokens: new tokens a round; break even: acceptance per drafted token that is as fast as plain decoding"
    )
    if all(row.speedup < 1 for row in rows):
        out().print("none of these is faster than plain decoding")
    for sentence in assumed:
        out().print(f"- {sentence}")


def check_results(folder: Path, model: str | None = None) -> None:
    """Predict a benchmark's runs from their counts and rounds timed now, and print both.

    Args:
        folder: what `conflayers bench` wrote.
        model: where the model lies now; by default where it lay then.

    Raises:
        InputError: no results, nothing in them to predict, or they are of another model.
    """
    from conflayers.bench.results import Results
    from conflayers.predict.measured import calibrate_for, count_methods, predicted_seconds, validate

    results = Results.load(folder)
    plain, counted, left_out = count_methods(results)
    if not counted:
        raise InputError(f"{folder} has no method that drafted with a part of the model: nothing to predict")
    settings = results.settings
    source = model or settings.get("source", settings["model"])
    llm = load_model(source, settings["threads"], dtype=settings["dtype"], device=settings["device"])
    if asdict(llm.body.identity) != settings.get("identity"):
        raise InputError(f"{source} is not the model of the results in {folder}: name that one as MODEL")
    with busy(f"timing the rounds of {len(counted)} methods and of plain decoding, in turns"):
        costs = calibrate_for(llm, results)
    checked = validate(results, costs)
    seconds = {"predicted": predicted_seconds(plain, costs, settings["layers"]), "measured": plain.seconds}
    show_checked(checked, seconds, left_out)
    rows = [asdict(one) for one in checked]
    timed = {"costs": costs.as_dict(), "plain_seconds": seconds}
    print_json({"model": settings["model"], **timed, "left_out": left_out, "rows": rows})


def show_checked(checked: list["Checked"], plain: dict[str, float], left_out: list[str]) -> None:
    """Plain decoding, then one method a line in the order of the benchmark, then those left out."""
    out().print("Speedup over plain decoding, predicted by rounds timed now and measured in the benchmark")
    out().print(
        f"plain decoding: {plain['predicted']:.2f} s by the rounds timed now, {plain['measured']:.2f} s measured"
    )
    for one in checked:
        out().print(
            f"{one.method}: predicted {one.predicted:.3f}, measured {one.measured:.3f}, {one.difference:+.1%} "
            f"(skip ratio {one.skip_ratio:.2f}, drafts of {one.draft_length:.2f}, acceptance {one.acceptance:.2f}, "
            f"{one.select_share:.1%} of the time spent choosing)"
        )
    for name in left_out:
        out().print(f"{name}: left out, for it did not draft with a part of the model")


def rooflines(given: dict[str, Any]) -> "Roofline":
    """Costs from an accelerator's figures and the model's shape."""
    from conflayers.predict.accelerators import accelerator
    from conflayers.predict.config import shape_of
    from conflayers.predict.prediction import Roofline
    from conflayers.predict.roofline import Machine

    device = accelerator(given["accelerator"], given["bandwidth"], given["tflops"], given["launch"])
    chosen = {name: given[name] for name in ("devices", "dtype", "all_reduce") if given[name] is not None}
    context = {} if given["context"] is None else {"context": given["context"]}
    return Roofline(shape_of(given["model"]), Machine(device, **chosen), **context)


def measured(given: dict[str, Any], ratios: list[float]) -> "Given":
    """Costs as the user measured them."""
    from conflayers.predict.prediction import Given

    roofline = ["accelerator", "bandwidth", "tflops", "launch", "devices", "all_reduce", "dtype", "context"]
    refuse("--costs stands instead of an accelerator", given, roofline)
    values = numbers("costs", given["costs"], float)
    if len(values) != 3:
        raise InputError(f"--costs takes three times in milliseconds, PLAIN,DRAFT,VERIFY, not {given['costs']!r}")
    if len(ratios) > 1:
        raise InputError("--costs are those of one skip ratio: give one")
    return Given(*(value / 1e3 for value in values))


def refuse(why: str, given: dict[str, Any], names: list[str]) -> None:
    """Raise InputError if one of these was given."""
    if wrong := [option(name) for name in names if given[name] is not None]:
        raise InputError(f"{why}: leave out {', '.join(wrong)}")


def option(name: str) -> str:
    """How an argument of `run` is called on the command line."""
    return "MODEL" if name == "model" else "--" + name.replace("_", "-")


def numbers(name: str, text: str, kind: type[Any]) -> list[Any]:
    """The numbers of a list separated by commas."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise InputError(f"{option(name)} takes {what}, several separated by commas, not {text!r}") from None
