"""Does a body do on this model exactly what speculation relies on? Checked before a model is accepted.

Continue with several tokens, draft with layers skipped, roll back, verify: every time the logits must be those of one
plain pass over the whole sequence. Wrong positions, a mask of the wrong size and state that does not roll back all
show here, on the user's own model, instead of as wrong text.
"""

import torch

from conflayers.body.anatomy import probe_tokens
from conflayers.body.portable import PortableBody
from conflayers.body.switch import forwards_replaced, passing, silent
from conflayers.errors import UnsupportedModelError
from conflayers.plan import Plan

TOKENS = 12
PREFIX = 6

# Largest difference of logits, relative to the largest reference logit, that rounding explains.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1.5e-1}


@torch.no_grad()
def self_test(body: PortableBody) -> dict[str, float]:
    """Run the checks and leave the body's cache empty.

    Returns:
        The largest relative difference of each check, by name.

    Raises:
        UnsupportedModelError: a check fails or cannot be run; the message names it.
    """
    tokens = probe_tokens(body.model, TOKENS)
    name = body.anatomy.name
    try:
        ids = torch.tensor([tokens], device=body.model.device)
        reference = body.model(input_ids=ids, use_cache=False).logits[0].float()
        differences = _compare(body, tokens, reference)
    except Exception as error:
        raise UnsupportedModelError(f"{name} failed the self-test ({type(error).__name__}: {error})") from error
    finally:
        body.release()
    tolerance = _tolerance(body)
    for check, difference in differences.items():
        if not difference <= tolerance:
            raise UnsupportedModelError(
                f"{name} failed the self-test '{check}': logits are off by {difference:.1e} of their range, "
                f"where rounding explains {tolerance:.0e}"
            )
    return differences


def _compare(body: PortableBody, tokens: list[int], reference: torch.Tensor) -> dict[str, float]:
    def difference(logits: torch.Tensor, start: int) -> float:
        wanted = reference[start : start + logits.shape[0]]
        scale = float(wanted.abs().amax()) or 1.0
        return float((logits.float() - wanted).abs().amax()) / scale

    middle = range(1, body.layers - 1)
    body.reserve(TOKENS)
    results = {"prefill": difference(body.forward(tokens[:PREFIX]).logits, 0)}
    results["continue with several tokens"] = difference(body.forward(tokens[PREFIX:], record=1).logits, PREFIX)
    body.rollback(PREFIX)
    for step in range(2):
        with body.running(Plan.layers(i for i in middle if i % 2 == step)):
            body.forward(tokens[-2:-1])
            body.forward(tokens[-1:])
        body.rollback(PREFIX)
    results["verify after a draft"] = difference(body.forward(tokens[PREFIX:-2]).logits, PREFIX)
    body.rollback(PREFIX + 1)
    decoded = body.forward(tokens[PREFIX + 1 : PREFIX + 2]).logits
    results["roll back and decode one token"] = difference(decoded, PREFIX + 1)
    results["skip attention and MLP of one layer"] = _silence(body, tokens[:PREFIX])
    return results


def _silence(body: PortableBody, tokens: list[int]) -> float:
    """A layer whose attention and MLP are silent must be the identity, or skipping one of them means something else."""
    parts = body.anatomy.layers[body.layers // 2]
    outputs = []
    for replacements in ([passing(parts.layer)], [silent(part) for part in (parts.attention, *parts.mlp)]):
        body.rollback(0)
        with forwards_replaced(replacements):
            outputs.append(body.forward(tokens).logits.float())
    scale = float(outputs[0].abs().amax()) or 1.0
    return float((outputs[0] - outputs[1]).abs().amax()) / scale


def _tolerance(body: PortableBody) -> float:
    return TOLERANCE.get(body.model.dtype, TOLERANCE[torch.bfloat16])
