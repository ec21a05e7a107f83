"""`conflayers generate`: answer a prompt, and compare if asked."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conflayers.cli import arguments as arg
from conflayers.cli.console import busy, load_model, note, out, print_json
from conflayers.errors import InputError, PlanError

if TYPE_CHECKING:
    from conflayers.api import Llm, Result
    from conflayers.compare import Row


MethodName = Annotated[
    str | None, typer.Option(help="One of `conflayers methods`; auto by default.", show_default=False)
]
Options = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="An option of the method, or a setting of how tokens are chosen."),
]
Variant = Annotated[arg.Variant | None, typer.Option(help="The same as --option variant=...", show_default=False)]
UsePlan = Annotated[str | None, typer.Option(metavar="FILE", help="Use a saved plan and do not search.")]
SavePlan = Annotated[Path | None, typer.Option(metavar="FILE", help="Save the plan in use at the end.")]
NewTokens = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="256 by default, or what the context has room for.")
]
Compare = Annotated[bool, typer.Option("--compare", help="Also run plain decoding and transformers' own generate.")]
Repeat = Annotated[int, typer.Option(min=1, metavar="N", help="With --compare: runs of each, in turns.")]
Explain = Annotated[
    bool, typer.Option("--explain", help="Also tell every way to draft that was considered, and what came of it.")
]
# They decode without any plan that could be saved.
WITHOUT_PLAN = ("vanilla", "lookup")


def run(
    model: arg.Model,
    prompt: arg.PromptText = None,
    prompt_file: arg.PromptFile = None,
    method: MethodName = None,
    option: Options = None,
    variant: Variant = None,
    dtype: arg.LoadDtype = arg.Dtype.auto,
    device: arg.Device = None,
    threads: arg.Threads = None,
    plan: UsePlan = None,
    save_plan: SavePlan = None,
    max_new_tokens: NewTokens = None,
    chat: arg.Chat = None,
    temperature: arg.Temperature = None,
    top_p: arg.TopP = None,
    top_k: arg.TopK = None,
    seed: arg.Seed = None,
    stop: arg.StopText = None,
    trust_remote_code: arg.TrustRemoteCode = False,
    revision: arg.Revision = None,
    compare: Compare = False,
    repeat: Repeat = 1,
    explain: Explain = False,
    as_json: arg.Json = False,
) -> None:
    """Answer a prompt; the text appears as it is accepted."""
    text = arg.read_prompt(prompt, prompt_file)
    options = arg.parse_options([*([f"variant={variant.value}"] if variant else []), *(option or [])])
    named = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed, "stop_strings": stop or None}
    arg.merge(options, named)
    # Only ConfLayers has variants.
    method = method or ("conflayers" if "variant" in options else "auto")
    request = Request(method, plan, options, max_new_tokens, compare, repeat)
    request.check()
    if save_plan is not None and method in WITHOUT_PLAN:
        raise InputError(f"--save-plan has nothing to save: method {method!r} decodes without a plan")
    arg.check_output(save_plan)
    llm = load_model(
        model, threads, dtype=dtype.value, device=device, trust_remote_code=trust_remote_code, revision=revision
    )
    result, rows = answer(llm, llm.encode(text, chat=chat), request, show=not as_json)
    if as_json:
        from conflayers.cli.report import document

        print_json(document(llm, result, rows, **request.values()))
    else:
        report(result, rows)
        if explain:
            _explain(result)
    if save_plan is not None:
        _save_plan(llm, result, request, save_plan)


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for, besides model and prompt."""

    method: str = "auto"
    plan: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    max_new_tokens: int | None = None
    compare: bool = False
    repeat: int = 1
    beside: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise InputError or PlanError for what can be seen to be wrong before a model is loaded."""
        from conflayers.api import REQUEST_OPTIONS
        from conflayers.choice import split_choice
        from conflayers.methods import build_method, check_names
        from conflayers.plan import FULL

        if self.plan is not None and not Path(self.plan).is_file():
            raise PlanError(f"no plan file at {self.plan}")
        if self.repeat > 1 and not self.compare:
            raise InputError("--repeat needs --compare")
        if self.compare and self.max_new_tokens == 0:
            raise InputError("--compare needs at least one new token")
        choice, options = split_choice(self.options)
        if self.compare and choice.sampled:
            raise InputError("--compare is of greedy decoding: texts drawn at random differ. Leave out the sampling")
        options.pop("stop_strings", None)
        if "plan" in options:
            raise InputError("a plan is given by --plan FILE, not by --option")
        check_names(self.method, options, REQUEST_OPTIONS)
        build_method(self.method, 1, None if self.plan is None else FULL, **options)

    def values(self) -> dict[str, Any]:
        """The settings that belong beside a measurement."""
        return {"method": self.method, "options": self.options, "repeat": self.repeat}


def answer(llm: "Llm", ids: list[int], request: Request, *, show: bool) -> "tuple[Result, list[Row]]":
    """Generate, with the text printed as it comes if `show`; then run whatever it is to be compared with."""
    from conflayers.compare import compare, new_tokens, single_row, warm_up

    stream = llm.stream(
        ids, method=request.method, plan=request.plan, max_new_tokens=request.max_new_tokens, **request.options
    )
    if request.compare and (count := new_tokens(llm, ids, request.max_new_tokens)):
        with busy("warming up"):
            warm_up(llm, ids, count)
    for piece in stream:
        if show:
            print(piece, end="", flush=True)
    if show:
        print(flush=True)
    if not request.compare:
        return stream.result, [single_row(request.method, stream.result)]
    with busy("comparing") as tell:
        rows = compare(
            llm,
            ids,
            request.method,
            plan=request.plan,
            max_new_tokens=request.max_new_tokens,
            repeat=request.repeat,
            first=stream.result,
            beside=request.beside,
            tell=lambda what: tell(f"comparing: {what}"),
            **request.options,
        )
    return stream.result, rows


def report(result: "Result", rows: "list[Row]") -> None:
    """A line of statistics on standard error; for a comparison the table and what it came to on standard output."""
    from conflayers.cli.report import decisions, statistics, table, verdict

    if len(rows) == 1:
        for line in (statistics(result), *decisions(result)):
            note(line)
        return
    console = out()
    console.print()
    console.print(table(rows), soft_wrap=False)
    for line in (*verdict(rows, result), *decisions(result)):
        console.print(line)


def _explain(result: "Result") -> None:
    from conflayers.cli.report import standings

    if result.standings:
        out().print(standings(result))
    else:
        note("nothing to explain: the method does not choose between drafts")


def _save_plan(llm: "Llm", result: "Result", request: Request, path: Path) -> None:
    if result.plan is None:
        note(f"no plan saved to {path}: decoding ended plainly, without a plan")
        return
    from conflayers.cli.report import settings

    llm.save_plan(path, result.plan, **settings(llm), **request.values(), statistics=result.stats.as_dict())
    note(f"plan saved to {path}: {result.plan}")
