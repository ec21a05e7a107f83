"""`conflayers check`: can this model be driven, and is the output transformers' own?"""

import math
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conflayers.cli import arguments as arg
from conflayers.cli.console import busy, load_model, out, print_json
from conflayers.errors import UnsupportedModelError

if TYPE_CHECKING:
    from conflayers.api import Llm

SENTENCE = "Write a short story about a lighthouse keeper who finds a message in a bottle."
NEW_TOKENS = 64
# Tokens that are verified in one pass and one by one.
ROWS = 16


def run(
    model: arg.Model,
    dtype: Annotated[
        arg.Dtype, typer.Option(help="The precision to look at after float32; float32 looks at no other.")
    ] = arg.Dtype.bfloat16,
    device: arg.Device = None,
    threads: arg.Threads = None,
    trust_remote_code: arg.TrustRemoteCode = False,
    revision: arg.Revision = None,
    as_json: arg.Json = False,
) -> None:
    """Check that a model can be driven exactly and that drafts do not change its output.

    Exits with 1 if greedy output in float32 is not that of transformers.
    """
    llm = load_model(
        model, threads, dtype="float32", device=device, trust_remote_code=trust_remote_code, revision=revision
    )
    from conflayers.cli.report import settings

    found: dict[str, Any] = settings(llm) | {"structure": structure(llm), "self_test": llm.differences}
    with busy("comparing with transformers in float32"):
        found["float32"] = compare_greedy(llm)
    lower = "bfloat16" if dtype is arg.Dtype.auto else dtype.value
    if lower != "float32":
        with busy(f"comparing with transformers in {lower}"):
            found[lower] = compare_lower(llm, lower)
    if as_json:
        print_json(found)
    else:
        _show(found, lower)
    if not found["float32"]["identical"]:
        raise typer.Exit(1)


def structure(llm: "Llm") -> dict[str, Any]:
    """What was learnt of the model."""
    anatomy = llm.body.anatomy
    return {
        "class": anatomy.name,
        "body": llm.body.kind,
        "why_not_compiled": llm.body.why_not_compiled,
        "layers": len(anatomy.layers),
        "windows": list(anatomy.windows),
        "hidden_size": anatomy.hidden_size,
        "vocab_size": anatomy.vocab_size,
        "context": anatomy.context,
    }


def compare_greedy(llm: "Llm") -> dict[str, Any]:
    """Greedy output with drafts that skip every second layer against transformers' own.

    These drafts are bad on purpose: nearly every one is rejected in part, so that every rollback is exercised.
    """
    from conflayers.body.anatomy import probe_tokens
    from conflayers.compare import first_difference, transformers_greedy
    from conflayers.plan import Plan

    ids = llm.encode(SENTENCE if llm.tokenizer is not None else probe_tokens(llm.model, 8))
    count = min(NEW_TOKENS, llm.body.context - len(ids))
    plan = Plan.layers(range(1, llm.body.layers - 1, 2))
    ours = llm.generate(ids, method="fixed", plan=plan, max_new_tokens=count, max_draft_tokens=4, confidence_stop=0.0)
    theirs = transformers_greedy(llm, ids, count)
    position = first_difference(ours.token_ids, theirs)
    values: dict[str, Any] = {"identical": position is None, "tokens": len(theirs), "first_difference": position}
    if position is not None:
        values |= _near_tie(llm, [*ids, *theirs[:position]])
    return values


def compare_lower(llm: "Llm", dtype: str) -> dict[str, Any]:
    """The same with the weights rounded to `dtype`. The model stays that way."""
    import torch

    from conflayers.api import Llm

    # The parameters alone: `model.to` would round the rotary frequencies too, which loading in `dtype` does not.
    for parameter in llm.model.parameters():
        parameter.data = parameter.data.to(getattr(torch, dtype))
    try:
        lower = Llm(llm.model, llm.tokenizer, llm.name)
        return {**compare_greedy(lower), "verification": compare_rows(lower)}
    except UnsupportedModelError as error:
        return {"refused": str(error)}


def compare_rows(llm: "Llm") -> dict[str, Any]:
    """A chain of tokens verified in one pass against the same one by one: is every logit the same, to the bit?"""
    import torch

    from conflayers.body.anatomy import probe_tokens

    tokens = probe_tokens(llm.model, min(4 * ROWS, llm.body.context))
    rows = min(ROWS, len(tokens) // 2)
    text, chain = tokens[:-rows], tokens[-rows:]
    llm.body.reserve(len(tokens))
    try:
        llm.body.forward(text, rows=1)
        together = llm.body.forward(chain).logits
        llm.body.rollback(len(text))
        alone = torch.cat([llm.body.forward([token]).logits for token in chain])
    finally:
        llm.body.release()
    differ = (together != alone).any(1)
    gaps = (together.float() - alone.float()).abs().amax(1)
    first = int(differ.int().argmax()) if differ.any() else None
    return {
        "promised": llm.body.steady,
        "rows": len(chain),
        "differing": int(differ.sum()),
        "first_difference": first,
        "gap": None if first is None else float(gaps[first]),
        "largest_gap": float(gaps.amax()),
        "why_not_compiled": llm.body.why_not_compiled,
    }


def _near_tie(llm: "Llm", ids: list[int]) -> dict[str, float]:
    """How far apart the two largest logits after `ids` are, and how far apart numbers of that size can be told."""
    import torch

    with torch.no_grad():
        logits = llm.model(input_ids=torch.tensor([ids], device=llm.model.device), use_cache=False).logits[0, -1]
    first, second = logits.float().topk(2).values.tolist()
    exponent = math.floor(math.log2(abs(first))) if first else 0
    return {"top2_gap": first - second, "spacing": torch.finfo(logits.dtype).eps * 2.0**exponent}


def _show(found: dict[str, Any], lower: str) -> None:
    console = out()
    shape = found["structure"]
    console.print(f"{found['model']}: {shape['class']}, {shape['layers']} layers, hidden size {shape['hidden_size']}")
    kinds = Counter("full" if window is None else f"sliding over {window} tokens" for window in shape["windows"])
    console.print("attention: " + ", ".join(f"{kind} in {count} layers" for kind, count in kinds.items()))
    console.print(f"vocabulary {shape['vocab_size']}, context {shape['context']}")
    driven = {"fast": "a few operators of our own", "portable": "the model's own forward"}[shape["body"]]
    console.print(f"run by {driven} (body {shape['body']!r})")
    if shape["body"] == "fast":
        for dtype, why in _passes(found, lower).items():
            said = "compiled here" if why is None else f"torch's, since {why}"
            console.print(f"operators of short passes in {dtype}: {said}")
    console.print("self-test in float32, difference of a token's logits relative to their norm:")
    for check, difference in found["self_test"].items():
        console.print(f"  {check}: {difference:.1e}")
    for dtype in dict.fromkeys(("float32", lower)):
        console.print(f"greedy output in {dtype}: {_outcome(found[dtype])}")
    if "verification" in found[lower]:
        console.print(f"verification of several tokens in {lower}: {_verification(found[lower]['verification'])}")


def _passes(found: dict[str, Any], lower: str) -> dict[str, str | None]:
    """By dtype, why short passes are torch's operators; None where they are not."""
    passes = {"float32": found["structure"]["why_not_compiled"]}
    if "verification" in found[lower]:
        passes[lower] = found[lower]["verification"]["why_not_compiled"]
    return passes


def _verification(values: dict[str, Any]) -> str:
    if not values["differing"]:
        promise = "always so" if values["promised"] else "not promised for other texts"
        return f"bit for bit decoding one by one over {values['rows']} tokens ({promise})"
    broken = ", though the body promises the same: please report this" if values["promised"] else ""
    return (
        f"{values['differing']} of {values['rows']} tokens have other logits than one by one, the first is number "
        f"{values['first_difference']}, by {values['gap']:.2g}, none by more than {values['largest_gap']:.2g}{broken}"
    )


def _outcome(values: dict[str, Any]) -> str:
    if "refused" in values:
        return f"refused: {values['refused']}"
    if values["identical"]:
        return f"identical to transformers' over {values['tokens']} tokens"
    return (
        f"differs from transformers' at new token {values['first_difference']}, where the two largest logits are "
        f"{values['top2_gap']:.2g} apart (neighbouring numbers of that size: {values['spacing']:.2g})"
    )
