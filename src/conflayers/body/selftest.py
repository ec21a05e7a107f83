"""Does a body do on this model exactly what speculation relies on? Checked before a model is accepted.

Continue with several tokens, draft with layers skipped, roll back, verify: every time the logits must be those of one
plain pass over the whole sequence. Wrong positions, a mask of the wrong size and state that does not roll back all
show here, on the user's own model, instead of as wrong text.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from conflayers.body.anatomy import probe_tokens
from conflayers.body.portable import PortableBody
from conflayers.body.switch import first_hidden, forwards_replaced, silent
from conflayers.errors import UnsupportedModelError
from conflayers.plan import Plan

TOKENS = 12
PREFIX = 6

# How far a token's logits may be off, by the norm of the difference relative to theirs, for rounding to explain it. In
# bfloat16 random models of 12 layers were found up to 0.25 off; a token or a position left out makes it 0.4 to 1.6.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 4e-2, torch.bfloat16: 3e-1}
# Least cosine of what goes into a silent layer and what comes out. Layers may scale the residual stream, not drop it.
RESIDUAL_COSINE = 0.5

LOGIT_CHECKS = (
    "a prefix does not see what follows it",
    "continue with several tokens",
    "verify after a draft",
    "roll back and decode one token",
)
# Trees are a refinement: without them a model is driven by chains alone.
TREE_CHECK = "verify a tree and keep one path of it"
RESIDUAL_CHECK = "the residual stream passes layers whose attention and MLP are skipped"


@torch.no_grad()
def self_test(body: PortableBody, residual: bool = True) -> dict[str, float]:
    """Run the checks, let the body verify trees if it can, and leave its cache empty.

    Args:
        body: of any kind.
        residual: whether to see that skipping leaves the residual stream alone, which a body that runs the model's own
            modules cannot know otherwise.

    Returns:
        By check, how far the token is off that is off most: see `off`; and 1 - cosine for the residual stream. Infinite
        for trees that cannot be run at all.

    Raises:
        UnsupportedModelError: a check fails or cannot be run; the message names it.
    """
    name = body.anatomy.name
    found: dict[str, float] = {}
    check = LOGIT_CHECKS[0]
    tolerance = TOLERANCE.get(body.model.dtype, TOLERANCE[torch.bfloat16])
    try:
        differences = _logit_differences(body)
        for check in LOGIT_CHECKS:
            found[check] = next(differences)
            if not found[check] <= tolerance:
                raise UnsupportedModelError(
                    f"{name} failed the self-test '{check}': logits are off by {found[check]:.1e} of their norm, "
                    f"where rounding explains {tolerance:.0e}"
                )
        found[TREE_CHECK] = _tree_difference(body)
        body.trees = found[TREE_CHECK] <= tolerance
        check = RESIDUAL_CHECK
        if residual:
            found[check] = max(1 - _residual_cosine(body), 0.0)
        if residual and not found[check] <= 1 - RESIDUAL_COSINE:
            raise UnsupportedModelError(
                f"{name} failed the self-test '{check}': its sublayers add the residual stream themselves"
            )
    except UnsupportedModelError:
        raise
    except Exception as error:
        raise UnsupportedModelError(
            f"{name} failed the self-test '{check}' ({type(error).__name__}: {error})"
        ) from error
    finally:
        body.release()
    return found


def _logit_differences(body: PortableBody) -> Iterator[float]:
    """One difference for each of `LOGIT_CHECKS`, in their order."""
    tokens = probe_tokens(body.model, TOKENS)
    ids = torch.tensor([tokens], device=body.model.device)
    reference = body.model(input_ids=ids, use_cache=False).logits[0].float()

    def difference(logits: torch.Tensor, start: int) -> float:
        return off(logits, reference[start : start + logits.shape[0]])

    middle = range(1, body.layers - 1)
    body.reserve(TOKENS)
    yield difference(body.forward(tokens[:PREFIX]).logits, 0)
    yield difference(body.forward(tokens[PREFIX:], record=1).logits, PREFIX)
    body.rollback(PREFIX)
    for step in range(2):
        with body.running(Plan.layers(i for i in middle if i % 2 == step)):
            body.forward(tokens[-2:-1])
            body.forward(tokens[-1:])
        body.rollback(PREFIX)
    yield difference(body.forward(tokens[PREFIX:-2]).logits, PREFIX)
    body.rollback(PREFIX + 1)
    yield difference(body.forward(tokens[PREFIX + 1 : PREFIX + 2]).logits, PREFIX + 1)


def off(logits: torch.Tensor, wanted: torch.Tensor) -> float:
    """By the norm of the difference relative to the norm, of the token where that is most; both [tokens, vocabulary].

    Not by the largest logit: of thousands, rounding in half precision has one that is off by far more than the rest.
    """
    wanted = wanted.float()
    norms = wanted.norm(dim=-1)
    return float(((logits.float() - wanted).norm(dim=-1) / norms.where(norms > 0, 1.0)).amax())


def _tree_difference(body: PortableBody) -> float:
    """A chain of two with a sibling of each, and the text after the second sibling, against plain passes."""
    tokens = probe_tokens(body.model, TOKENS)
    prefix, (one, two, other_one, other_two, last) = tokens[:PREFIX], tokens[PREFIX : PREFIX + 5]

    def plain(*text: int) -> torch.Tensor:
        body.rollback(0)
        return body.forward([*prefix, *text], rows=1).logits[0].float()

    paths = [(one,), (one, two), (other_one,), (one, other_two), (one, other_two, last)]
    reference = torch.stack([plain(*path) for path in paths])
    body.rollback(0)
    body.forward(prefix)
    try:
        # The same tokens as a text: what it would be like if siblings saw each other.
        text = body.forward([one, two, other_one, other_two]).logits.float()
        body.rollback(PREFIX)
        tree = body.forward([one, two, other_one, other_two], parents=[-1, 0, -1, 0]).logits
        body.keep(PREFIX, [0, 3])
        rows = torch.cat([tree, body.forward([last]).logits]).float()
    except Exception:  # whatever a model makes of such a mask: it gets none
        return float("inf")
    found, wrong = off(rows, reference), off(text, reference[: len(text)])
    # In half precision rounding is allowed so much that a wrong mask could pass for it, but it must be far from wrong.
    return found if found <= wrong / 4 else float("inf")


def _residual_cosine(body: PortableBody) -> float:
    """The least cosine between the input and the output of a layer while every sublayer is silent.

    Where attention or MLP add the residual stream inside themselves, silencing one would cut off all layers before it.
    """
    before: dict[nn.Module, torch.Tensor] = {}
    cosines: list[torch.Tensor] = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Over all tokens at once: one token's embedding may be zero. A copy, because layers may scale in place.
        before[module] = first_hidden(args, kwargs).float().flatten().clone()

    def leave(module: nn.Module, _: Any, output: Any) -> None:
        out = output[0] if isinstance(output, tuple) else output
        cosines.append(torch.cosine_similarity(before[module], out.float().flatten(), dim=0))

    body.rollback(0)
    parts = [part for layer in body.anatomy.layers for part in (layer.attention, *layer.mlp)]
    with ExitStack() as hooks, forwards_replaced(map(silent, parts)):
        for layer in body.anatomy.layers:
            hooks.callback(layer.layer.module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            hooks.callback(layer.layer.module.register_forward_hook(leave).remove)
        body.forward(probe_tokens(body.model, PREFIX))
    return float(torch.stack(cosines).min())
