"""Which body drives a model: the fast one where it is right, the portable one everywhere else."""

from transformers import PreTrainedModel

from conflayers.body.fast import FastBody
from conflayers.body.llama import why_not
from conflayers.body.portable import PortableBody
from conflayers.body.selftest import self_test
from conflayers.body.weights import check_layout
from conflayers.errors import InputError, UnsupportedModelError

BODIES = ("auto", "fast", "portable")


def choose_body(
    model: PreTrainedModel, wanted: str = "auto", layout: str = "auto"
) -> tuple[PortableBody, dict[str, float]]:
    """A body for `model`, and what its self-test found.

    Args:
        model: a decoder-only causal language model of transformers.
        wanted: "auto", or "fast" or "portable" to insist on one.
        layout: see `weights.read_weights`; only the fast body has a choice.

    Raises:
        UnsupportedModelError: the model cannot be driven exactly. InputError: the fast body was insisted on, and this
            model is not for it; the message says why.
    """
    if wanted not in BODIES:
        raise InputError(f"body must be {', '.join(map(repr, BODIES[:-1]))} or {BODIES[-1]!r}, not {wanted!r}")
    check_layout(layout)
    if wanted == "portable" and layout != "auto":
        raise InputError(f"layout={layout!r} is for the fast body: leave it out with body='portable'")
    body = PortableBody(model)
    if wanted == "portable":
        return body, self_test(body)
    reason = why_not(model)
    if reason is None:
        try:
            # Its layers add to the residual stream by themselves, so there is nothing of that to see.
            fast = FastBody(model, body.anatomy, layout)
            return fast, self_test(fast, residual=False)
        except UnsupportedModelError as error:
            reason = str(error)
    found = self_test(body)
    if wanted == "fast" or layout != "auto":
        raise InputError(f"the fast body cannot drive this model: {reason}. Leave out body and layout")
    return body, found
