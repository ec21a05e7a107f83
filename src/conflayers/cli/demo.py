"""`conflayers demo`: the whole story on one small model, in a minute or two."""

from collections.abc import Sequence
from typing import Annotated

import typer

from conflayers.cli import arguments as arg
from conflayers.cli.console import load_model, out, print_json
from conflayers.cli.generate import Request, answer, report

PROMPT = "Explain to a curious child, step by step, why the sky is blue during the day and red at sunset."

# A text repeats itself where more than this share of its stretches of so many tokens stood in it before.
LOOPS, STRETCH = 0.5, 8


def repeated(tokens: Sequence[int]) -> float:
    """Share of the stretches of eight tokens that stood in the text before, 0 to 1; 0 for shorter texts."""
    stretches = [tuple(tokens[at : at + STRETCH]) for at in range(len(tokens) - STRETCH + 1)]
    return 1 - len(set(stretches)) / len(stretches) if stretches else 0.0


def run(
    model: arg.Model = "smollm2",
    prompt: Annotated[str, typer.Option(metavar="TEXT", show_default=False)] = PROMPT,
    max_new_tokens: Annotated[int, typer.Option(min=1, metavar="N")] = 256,
    repeat: Annotated[int, typer.Option(min=1, metavar="N", help="Runs of each way to decode, in turns.")] = 3,
    dtype: Annotated[arg.Dtype, typer.Option(help="Precision of the weights.")] = arg.Dtype.float32,
    threads: arg.Threads = None,
    json_only: Annotated[bool, typer.Option("--json-only", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Generate with ConfLayers and compare with plain decoding and with transformers."""
    console = out()
    if not json_only:
        console.print(f"Loading {model} in {dtype.value}.")
    llm = load_model(model, threads, dtype=dtype.value)
    request = Request(max_new_tokens=max_new_tokens, compare=True, repeat=repeat, beside=("conflayers",))
    ids = llm.encode(prompt)
    from conflayers.cli.report import document, settings

    if not json_only:
        shown = settings(llm)
        console.print(
            f"{llm.body.anatomy.name} with {llm.body.layers} layers on {shown['device']}, threads: {shown['threads']}; "
            f"transformers {shown['versions']['transformers']}, torch {shown['versions']['torch']}."
        )
        console.print(
            "The model drafts for itself: tokens that stood in the text before, the model in lower precision, or with\n"
            "layers switched off that show little confidence, whatever is measured to pay; and checks the draft with\n"
            "all of itself. Where nothing pays it decodes plainly.\n"
        )
        console.print(f"Prompt: {prompt}\n")
    result, rows = answer(llm, ids, request, show=not json_only)
    if not json_only:
        runs = "once each" if repeat == 1 else f"{repeat} times each, in turns"
        console.print(f"\nThe same prompt {runs}, at most {max_new_tokens} new tokens; tokens/s over all runs:")
        report(result, rows)
        if repeated(result.token_ids) > LOOPS:
            console.print(
                "\nMost of this text repeats itself, as greedy texts of small models do, and drafts of it are easy:\n"
                "these factors are no measure of other texts."
            )
        console.print()
    print_json(document(llm, result, rows, **request.values()))
