"""`conflayers bench`: methods against each other on one machine, every number with its settings beside it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from conflayers.cli import arguments as arg
from conflayers.cli.bench_compare import run as compare
from conflayers.cli.bench_report import run as report
from conflayers.cli.console import load_model, note, out, print_json
from conflayers.errors import InputError

if TYPE_CHECKING:
    from conflayers.api import Llm
    from conflayers.bench.data import Data, Sample
    from conflayers.bench.results import Results

METHODS = "hf,conflayers"


class _Group(TyperGroup):
    """`bench MODEL` is `bench run MODEL`, unless the word is another command."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["run", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    help="Benchmark methods: `bench MODEL` runs, `bench report` draws, `bench compare` says what changed.",
)
app.command("report")(report)
app.command("compare")(compare)


@app.command("run")
def run(
    model: arg.Model,
    methods: Annotated[
        str,
        typer.Option(
            metavar="A,B,C", help="Methods, each with options as NAME:OPTION=VALUE; see `conflayers methods`."
        ),
    ] = "",
    sweep: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Add the rows of a sweep.")] = None,
    data: Annotated[
        str, typer.Option(metavar="A,B", help="Data sets by name or JSONL file, one after the other.")
    ] = "prompts",
    folder: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Keep the results there, and go on from there.")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Prompts of each data set.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, metavar="N")] = 128,
    repeat: Annotated[int, typer.Option(min=1, metavar="R", help="Times that all of it is run.")] = 1,
    dtype: arg.LoadDtype = arg.Dtype.auto,
    device: arg.Device = None,
    threads: arg.Threads = None,
    temperature: arg.Temperature = None,
    seed: arg.Seed = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Methods forget after every request what they learnt.")
    ] = False,
    turns: Annotated[bool, typer.Option("--turns", help="All turns of dialogues, not only the first.")] = False,
    run_code: Annotated[
        bool, typer.Option("--run-code", help="Run the programs the model writes, for pass@1. No sandbox.")
    ] = False,
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Peak memory, in a process for each method.")
    ] = True,
    chat: arg.Chat = None,
    trust_remote_code: arg.TrustRemoteCode = False,
    revision: arg.Revision = None,
) -> None:
    """Run methods in turns over the same prompts; the last line is one JSON document.

    Plain decoding is always among them. Search time counts, and ratios are ratios of totals. With --out an interrupted
    benchmark goes on where it was, and --repeat adds to what is there.
    """
    from conflayers.bench.data import read_data
    from conflayers.bench.spec import expand

    names = expand(methods or ("" if sweep else METHODS), sweep or ())
    choice = _choice(temperature, seed)
    sets = [read_data(source.strip(), limit) for source in data.split(",")]
    _check_folder(folder)
    loading = {"dtype": dtype.value, "device": device, "trust_remote_code": trust_remote_code, "revision": revision}
    llm = load_model(model, threads, **loading)
    asked = {
        "methods": names,
        **_settings(llm, sets),
        "limit": limit,
        "max_new_tokens": max_new_tokens,
        "repeat": repeat,
        "temperature": temperature,
        "seed": seed,
        "turns": turns,
        "fresh": fresh,
        "chat": chat,
        "run_code": run_code,
    }
    results = _results(asked, sets, folder)
    benchmark(llm, sets, results, choice, folder)
    if memory:
        _measure_memory(llm, {"source": model, **loading}, sets, results, choice, folder)
    _show(results, folder)


def benchmark(llm: "Llm", sets: "list[Data]", results: "Results", choice: dict[str, Any], folder: Path | None) -> None:
    """Run what is missing of `results`, with a bar where somebody is watching."""
    from conflayers.bench.judge import make_judge, rouge_available
    from conflayers.bench.provenance import now
    from conflayers.bench.run import Benchmark
    from conflayers.bench.spec import make_ways
    from conflayers.bench.subject import LlmSubject
    from conflayers.cli.search import progress_bar

    settings = results.settings
    ways = make_ways(llm, settings["methods"], choice, settings["fresh"])
    subject = LlmSubject(llm, settings["chat"])
    samples = _samples(sets)
    rouge = rouge_available()
    if not rouge:
        note("ROUGE-2 is left out: pip install 'conflayers[bench]' brings what it needs")
    judge = make_judge(rouge, settings["run_code"])
    with progress_bar() as tell:
        running = Benchmark(subject, samples, ways, results, folder, judge, tell)
        try:
            running.run()
        except KeyboardInterrupt:
            if folder is not None:
                note(f"interrupted; what has been done is in {folder}. The same command goes on from there")
            raise
    results.provenance["finished"] = now()
    if folder is not None:
        results.save(folder)


def _choice(temperature: float | None, seed: int | None) -> dict[str, Any]:
    if not temperature:
        if seed is not None:
            raise InputError("--seed needs sampling: set a --temperature above 0")
        return {}
    return {"temperature": temperature, **({} if seed is None else {"seed": seed})}


def _check_folder(folder: Path | None) -> None:
    if folder is None:
        return
    if folder.exists() and not folder.is_dir():
        raise InputError(f"cannot keep results in {folder}: it is a file")
    arg.check_output(folder / "results.json" if folder.is_dir() else folder)


def _settings(llm: "Llm", sets: "list[Data]") -> dict[str, Any]:
    from dataclasses import asdict

    import torch

    return {
        "model": llm.name,
        "identity": asdict(llm.body.identity),
        "layers": llm.body.layers,
        "body": llm.body.kind,
        "dtype": str(llm.model.dtype).removeprefix("torch."),
        "device": str(llm.model.device),
        "threads": torch.get_num_threads(),
        "data": [one.name for one in sets],
        "digests": [one.digest for one in sets],
    }


def _samples(sets: "list[Data]") -> "list[Sample]":
    return [sample for one in sets for sample in one.samples]


def _results(asked: dict[str, Any], sets: "list[Data]", folder: Path | None) -> "Results":
    """The results to go on from, or new ones."""
    from conflayers.bench.provenance import command_line, provenance
    from conflayers.bench.results import FILE, Results
    from conflayers.bench.run import samples_of

    if folder is None or not (folder / FILE).exists():
        return Results(asked, provenance(command_line()), samples_of(_samples(sets)))
    results = Results.load(folder)
    results.check_same(asked, folder)
    if results.records:
        note(f"going on after {len(results.records)} answers, from {folder}")
    results.settings["repeat"] = max(asked["repeat"], results.settings["repeat"])
    return results


def _measure_memory(
    llm: "Llm",
    loading: dict[str, Any],
    sets: "list[Data]",
    results: "Results",
    choice: dict[str, Any],
    folder: Path | None,
) -> None:
    """Peak memory of every method on the first prompt, as far as it is not known yet."""
    import torch

    from conflayers.bench.memory import Probe, peak_mb
    from conflayers.bench.rows import summarise
    from conflayers.bench.subject import LlmSubject
    from conflayers.bench.values import PLAIN

    ids = LlmSubject(llm, results.settings["chat"]).encode(_samples(sets)[0].turns[:1])
    count = min(results.settings["max_new_tokens"], llm.body.context - len(ids))
    for name in results.settings["methods"]:
        if name in results.memory:
            continue
        peak = peak_mb(Probe(loading, torch.get_num_threads(), name, choice, ids, count))
        plain = results.memory[PLAIN]["peak_mb"] if name != PLAIN else peak
        results.memory[name] = {"peak_mb": peak, "extra_mb": peak - plain}
        if folder is not None:
            results.save(folder)
    results.rows = summarise(results.records, results.settings["methods"], results.memory)
    if folder is not None:
        results.save(folder)


def _show(results: "Results", folder: Path | None) -> None:
    """The totals as a table, and everything but the records as one JSON document."""
    from conflayers.bench.table import table

    settings = results.settings
    console = out()
    console.print(
        f"{settings['model']}, {settings['layers']} layers, {settings['dtype']} on {settings['device']}, "
        f"{settings['threads']} threads; {len(results.samples)} prompts of {', '.join(settings['data'])}, "
        f"at most {settings['max_new_tokens']} new tokens, {settings['repeat']} times"
    )
    console.print(table(results.rows), soft_wrap=False)
    if folder is not None:
        note(f"kept in {folder}; `conflayers bench report {folder}` draws it")
    print_json(
        {"settings": settings, "provenance": results.provenance, "restarts": results.restarts, "rows": results.rows}
    )
