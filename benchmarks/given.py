"""What the scripts that time passes take on the command line."""

import argparse
from collections.abc import Mapping
from typing import Any

import torch

import conflayers
from conflayers.bench.provenance import command_line, provenance
from conflayers.body.portable import PortableBody


def given(description: str | None, more: Mapping[str, int | str]) -> tuple[argparse.Namespace, PortableBody]:
    """The arguments MODEL, --dtype, --threads, and `more` with their defaults; and the model's body."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    for name, default in more.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    return arguments, conflayers.load(arguments.model, dtype=arguments.dtype).body


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a script's document begins with."""
    what = {"model": arguments.model, "dtype": arguments.dtype, "threads": arguments.threads}
    return what | {"provenance": provenance(command_line())}


def text(body: PortableBody, tokens: int) -> list[int]:
    """So many tokens of no meaning."""
    return [(31 * i) % body.vocab_size for i in range(tokens)]
