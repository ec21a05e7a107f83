"""`conflayers export`: a model folder that is self-speculative wherever transformers loads it."""

from pathlib import Path
from typing import Annotated

import typer

from conflayers.cli import arguments as arg
from conflayers.cli.console import busy, load_model, note
from conflayers.errors import InputError


def run(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A model folder, or with --model one to be made.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The model to write to DIR: a hub id, a folder, a GGUF file, or smollm2."),
    ] = None,
    method: Annotated[str, typer.Option(help="One of `conflayers methods`.")] = "conflayers",
    option: arg.MethodOptions = None,
    plan: Annotated[Path | None, typer.Option(metavar="FILE", help="Use a saved plan and do not search.")] = None,
    dtype: Annotated[
        arg.Dtype | None, typer.Option(help="With --model: the precision to write it in.", show_default=False)
    ] = None,
    stats: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Let every request append a line of statistics to this file.")
    ] = None,
    revision: arg.Revision = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the way.")] = False,
) -> None:
    """Write a model folder with a `generate` of its own, which transformers takes given trust_remote_code=True.

    Pipelines and `transformers serve --trust-remote-code` then decode self-speculatively. Without --model only the code
    and its settings are added to a model folder that is there.
    """
    from conflayers.export import Export

    if model is None and (dtype is not None or revision is not None):
        raise InputError("--dtype and --revision belong to --model, which is not given")
    arg.check_output(stats)
    wanted = Export(folder, model is not None, method, plan, arg.parse_options(option or []), stats, overwrite)
    wanted.check()
    llm = load_model(
        str(folder) if model is None else model,
        None,
        dtype=(dtype or arg.Dtype.auto).value,
        device="cpu",
        revision=revision,
    )
    with busy("writing"):
        wanted.write(llm)
    note(f"{folder} decodes self-speculatively when transformers loads it with trust_remote_code=True")
