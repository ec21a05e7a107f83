"""`conflayers bench`: methods against each other on one machine, every number with its settings beside it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from conflayers.cli import arguments as arg
from conflayers.cli.bench_compare import run as compare
from conflayers.cli.bench_report import run as report
from conflayers.cli.console import load_model, note, out, print_json
from conflayers.cli.search import progress_bar
from conflayers.errors import InputError
from conflayers.options import pieces, unescaped

if TYPE_CHECKING:
    from conflayers.bench.results import Results

METHODS = "hf,conflayers"


class _Group(TyperGroup):
    """`bench MODEL` is `bench run MODEL`, unless the word is another command."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = ["run", *args]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        # Options may come before the model.
        if args and args[0].startswith("-") and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    help="Benchmark methods: `bench MODEL` runs, `bench report` draws, `bench compare` says what changed.",
)
app.command("report")(report)
app.command("compare")(compare)


Methods = Annotated[
    str,
    typer.Option(metavar="A,B,C", help="Methods, each with options as NAME:OPTION=VALUE; see `conflayers methods`."),
]
Sweep = Annotated[list[str] | None, typer.Option(metavar="NAME", help="Add the rows of a sweep.")]
Data = Annotated[str, typer.Option(metavar="A,B", help="Data sets by name or JSONL file, one after the other.")]
Folder = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Keep the results there, and go on from there.")
]
Limit = Annotated[int | None, typer.Option(metavar="N", help="Prompts of each data set.")]
NewTokens = Annotated[int, typer.Option(min=1, metavar="N", help="Of each answer, at most.")]
Repeat = Annotated[int, typer.Option(min=1, metavar="R", help="Times that all of it is run.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Methods forget after every request what they learnt.")]
Turns = Annotated[bool, typer.Option("--turns", help="All turns of dialogues, not only the first.")]
RunCode = Annotated[bool, typer.Option("--run-code", help="Run the programs the model writes, for pass@1. No sandbox.")]
Memory = Annotated[bool, typer.Option("--memory/--no-memory", help="Peak memory, by one more request of each method.")]


@app.command("run")
def run(
    model: arg.Model,
    methods: Methods = "",
    sweep: Sweep = None,
    data: Data = "prompts",
    folder: Folder = None,
    limit: Limit = None,
    max_new_tokens: NewTokens = 128,
    repeat: Repeat = 1,
    dtype: arg.LoadDtype = arg.Dtype.auto,
    device: arg.Device = None,
    threads: arg.Threads = None,
    temperature: arg.Temperature = None,
    seed: arg.Seed = None,
    fresh: Fresh = False,
    turns: Turns = False,
    run_code: RunCode = False,
    memory: Memory = True,
    chat: arg.Chat = None,
    trust_remote_code: arg.TrustRemoteCode = False,
    revision: arg.Revision = None,
) -> None:
    """Run methods in turns over the same prompts; the last line is one JSON document.

    Plain decoding is always among them. Search time counts, and ratios are ratios of totals. With --out an interrupted
    benchmark goes on where it was, and --repeat adds to what is there.
    """
    from conflayers.bench.spec import expand

    if seed is not None and not temperature:
        raise InputError("--seed needs sampling: set a --temperature above 0")
    asked = {
        "methods": expand(methods or ("" if sweep else METHODS), sweep or ()),
        "limit": limit,
        "max_new_tokens": max_new_tokens,
        "repeat": repeat,
        "temperature": temperature or None,
        "seed": seed,
        "turns": turns,
        "fresh": fresh,
        "chat": chat,
        "run_code": run_code,
    }
    loading = {"dtype": dtype.value, "device": device, "trust_remote_code": trust_remote_code, "revision": revision}
    results = benchmark({"source": model, **loading}, threads, data, asked, folder, memory)
    _show(results, folder)


def benchmark(
    loading: dict[str, Any], threads: int | None, data: str, asked: dict[str, Any], folder: Path | None, memory: bool
) -> "Results":
    """Load what is asked for and run it, with a bar where somebody is watching."""
    from conflayers.bench.data import read_all

    sets = read_all((unescaped(source) for source in pieces(data, ",")), asked["limit"])
    _check_folder(folder)
    llm = load_model(threads=threads, **loading)
    from conflayers.bench.session import Session

    with progress_bar() as tell:
        try:
            return Session(llm, loading, sets, asked, folder, note, tell).run(memory)
        except KeyboardInterrupt:
            if folder is not None and (folder / "results.json").exists():
                note(f"interrupted; what has been done is in {folder}. The same command goes on from there")
            raise


def _check_folder(folder: Path | None) -> None:
    if folder is None:
        return
    if folder.exists() and not folder.is_dir():
        raise InputError(f"cannot keep results in {folder}: it is a file")
    arg.check_output(folder / "results.json" if folder.is_dir() else folder)


def _show(results: "Results", folder: Path | None) -> None:
    """The totals as a table, and everything but the records as one JSON document."""
    from conflayers.bench.table import table

    settings = results.settings
    console = out()
    answers = results.rows[0]["requests"] if results.rows else 0
    console.print(
        f"{settings['model']}, {settings['layers']} layers, {settings['dtype']} on {settings['device']}, "
        f"{settings['threads']} threads; {answers} answers a method, prompts of "
        f"{', '.join(settings['data'])}, "
        f"at most {settings['max_new_tokens']} new tokens, repeats: {settings['repeat']}"
    )
    console.print(table(results.rows), soft_wrap=False)
    if folder is not None:
        note(f"kept in {folder}; `conflayers bench report {folder}` draws it")
    print_json({name: value for name, value in results.as_dict().items() if name not in ("records", "samples")})
