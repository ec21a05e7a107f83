"""Options that several commands share, and what turns their text into arguments of the library."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from conflayers.errors import InputError
from conflayers.options import option_pairs


class Dtype(StrEnum):
    """Precision of the weights."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Variant(StrEnum):
    """ConfLayers as made automatic here, exactly as published, or its published rule alone."""

    default = "default"
    paper = "paper"
    rule = "rule"


Model = Annotated[
    str, typer.Argument(help="A hub id, a folder, a GGUF file, or the alias smollm2.", show_default=False)
]
PromptText = Annotated[str | None, typer.Option("--prompt", help="The prompt.")]
PromptFile = Annotated[
    str | None, typer.Option("--prompt-file", metavar="FILE", help="Read the prompt from a file; - for standard input.")
]
Chat = Annotated[
    bool | None,
    typer.Option(
        "--chat/--no-chat", help="Insist on the chat template, or on none. By default it is used where there is one."
    ),
]
Device = Annotated[
    str | None, typer.Option(metavar="D", help="A torch device. By default an accelerator if there is one.")
]
LoadDtype = Annotated[Dtype, typer.Option(help="auto: the checkpoint's own, float32 for GGUF.")]
MethodOptions = Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the method.")]
Threads = Annotated[int | None, typer.Option(min=1, metavar="N", help="CPU threads. By default torch decides.")]
Temperature = Annotated[
    float | None, typer.Option(metavar="T", help="Draw tokens at random; 0 is greedy, as is leaving it out.")
]
TopP = Annotated[float | None, typer.Option(metavar="P", help="Draw from the likeliest tokens that make up P.")]
TopK = Annotated[int | None, typer.Option(metavar="K", help="Draw from the K likeliest tokens.")]
Seed = Annotated[int | None, typer.Option(metavar="N", help="The same text for the same seed, whatever the method.")]
StopText = Annotated[
    list[str] | None, typer.Option("--stop", metavar="TEXT", help="End where this text is complete; may be repeated.")
]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Allow the repository's own code to run.")]
Revision = Annotated[str | None, typer.Option(metavar="R", help="Revision of a hub repository.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def read_prompt(text: str | None, file: str | None) -> str:
    """The prompt, from whichever of the two options is given.

    Raises:
        InputError: neither or both are given, the file cannot be read, or there is nothing in it.
    """
    if (text is None) == (file is None):
        raise InputError("give the prompt by either --prompt or --prompt-file")
    prompt = _read(file) if file is not None else text
    if not prompt:
        raise InputError("the prompt is empty" if file is None else f"the prompt file {file} is empty")
    return prompt


def parse_options(pairs: list[str]) -> dict[str, Any]:
    """A method's options from NAME=VALUE texts.

    Raises:
        InputError: not of this form, or a name given twice.
    """
    return option_pairs(pairs, "--option")


def merge(options: dict[str, Any], named: dict[str, Any]) -> None:
    """Add to `options` what was given by an option of its own.

    Raises:
        InputError: something is given both ways.
    """
    for name, value in named.items():
        if value is not None:
            if name in options:
                raise InputError(f"{name} is given both by --option and by an option of its own")
            options[name] = value


def check_output(path: Path | None) -> None:
    """Find out whether `path` can be written before a long run, not after it.

    Raises:
        InputError: its folder does not exist, or it is a folder itself.
    """
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}")


def _read(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read the prompt file {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"the prompt file {file} is not UTF-8 text: {error}") from error
