"""`conflayers inspect`: draw why the rule skips what it skips."""

import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conflayers.cli import arguments as arg
from conflayers.cli.console import busy, load_model, out, print_json
from conflayers.errors import InputError

if TYPE_CHECKING:
    import torch

    from conflayers.api import Llm
    from conflayers.plan import Plan
    from conflayers.selectors.valley import Valleys

NEW_TOKENS = 64
SKIP_RATIO = 0.4


class Unit(StrEnum):
    """What is skipped at once."""

    layer = "layer"
    sublayer = "sublayer"


def run(
    model: arg.Model,
    out_file: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The picture: .png, .svg or .pdf.", show_default=False)
    ],
    prompt: arg.PromptText = None,
    prompt_file: arg.PromptFile = None,
    lam: Annotated[
        float | None, typer.Option("--lambda", metavar="X", help="Lambda; by default adapted to the skip ratio.")
    ] = None,
    skip_ratio: Annotated[
        float | None, typer.Option(metavar="R", help=f"Least share of the layers to skip ({SKIP_RATIO}).")
    ] = None,
    variant: Annotated[
        arg.Variant, typer.Option(help="The rule on a log scale, or as published.")
    ] = arg.Variant.default,
    unit: Annotated[Unit, typer.Option(help="Whole layers, or attention and MLP separately.")] = Unit.layer,
    dtype: arg.LoadDtype = arg.Dtype.auto,
    device: arg.Device = None,
    threads: arg.Threads = None,
    chat: arg.Chat = None,
    trust_remote_code: arg.TrustRemoteCode = False,
    revision: arg.Revision = None,
    as_json: arg.Json = False,
) -> None:
    """Draw each layer's confidence, its local threshold and window, and which layers the rule skips.

    The confidences are the means over 64 tokens that the model generates plainly after the prompt.
    """
    from conflayers.plot import check_plotting, draw_valleys
    from conflayers.selectors.rule import Settings, fit_lambda, landscapes, skip_set

    text = arg.read_prompt(prompt, prompt_file)
    rule = Settings(unit=unit.value, skip_ratio=_least_ratio(skip_ratio, lam))
    check_plotting(out_file)
    arg.check_output(out_file)
    llm = load_model(
        model, threads, dtype=dtype.value, device=device, trust_remote_code=trust_remote_code, revision=revision
    )
    with busy("generating"):
        seen = landscapes(measure(llm, text, chat), rule, published=variant is not arg.Variant.default)
    used, plan = fit_lambda(seen, 0.0, rule.skip_ratio) if lam is None else (lam, skip_set(seen, lam))
    valleys = [one.valleys(used) for one in seen]
    title = f"{llm.name}, lambda {used:.2f}, variant {variant.value}\n{plan}"
    draw_valleys(out_file, valleys, llm.body.layers, title)
    if as_json:
        print_json(_values(llm, used, plan, valleys))
    else:
        out().print(f"{plan} (lambda {used:.2f}); drawn to {out_file}")


def _least_ratio(skip_ratio: float | None, lam: float | None) -> float:
    if lam is not None and skip_ratio is not None:
        raise InputError("--lambda fixes what --skip-ratio would adapt: give one of them")
    if lam is not None and not math.isfinite(lam):
        raise InputError(f"lambda must be a finite number, not {lam}")
    return SKIP_RATIO if skip_ratio is None else skip_ratio


def measure(llm: "Llm", prompt: str, chat: bool | None) -> "torch.Tensor":
    """Mean confidence of every attention and MLP over the tokens that plain decoding adds to `prompt`, [2, layers]."""
    from conflayers.compare import new_tokens
    from conflayers.selectors.confidence import sublayer_confidences

    ids = llm.encode(prompt, chat=chat)
    count = max(min(NEW_TOKENS, new_tokens(llm, ids, None)), 1)
    result = llm.generate(ids, method="vanilla", max_new_tokens=count)
    tokens = [*ids, *result.token_ids]
    llm.body.reserve(len(tokens))
    trace = llm.body.forward(tokens, rows=1, record=len(result.token_ids)).trace
    assert trace is not None
    return sublayer_confidences(trace).mean(-1)


def _values(llm: "Llm", lam: float, plan: "Plan", valleys: "list[Valleys]") -> dict[str, Any]:
    from conflayers.cli.report import plan_values, settings

    names = ("layer",) if len(valleys) == 1 else ("attention", "mlp")
    scores = {name: _rows(found) for name, found in zip(names, valleys, strict=True)}
    return {**settings(llm), "lambda": lam, "plan": plan_values(plan), "scores": scores}


def _rows(found: "Valleys") -> list[dict[str, Any]]:
    columns = zip(found.scores, found.thresholds, found.windows, found.skipped, strict=True)
    return [
        {
            "layer": index,
            "score": float(score),
            # A candidate without neighbours has no threshold.
            "threshold": float(threshold) if math.isfinite(threshold) else None,
            "window": int(window),
            "skipped": bool(skipped),
        }
        for index, (score, threshold, window, skipped) in enumerate(columns, 1)
    ]
