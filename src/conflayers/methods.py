"""The table of methods: what each is, where it comes from, and how it is put together."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from conflayers.drafters.subnetwork import Subnetwork
from conflayers.errors import InputError
from conflayers.plan import Plan
from conflayers.round import Method, Selector
from conflayers.selectors.conflayers import ConfLayers, Settings
from conflayers.selectors.conflayers_published import PublishedConfLayers
from conflayers.selectors.fixed import Fixed


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the table.

    Attributes:
        summary: the idea in a line.
        source: the paper.
        build: makes the selector from the number of layers, a plan if one is given, and the options.
        options: name -> meaning, of what `build` takes besides the drafter's options.
        drafts: whether it drafts at all, and so takes the drafter's options.
    """

    summary: str
    source: str
    build: Callable[[int, Plan | None, dict[str, Any]], Selector]
    options: dict[str, str]
    drafts: bool = True


DRAFTER_OPTIONS = {
    "max_draft_tokens": "longest chain drafted, 1 or more (25)",
    "confidence_stop": "a chain ends after a token the draft gives less than this probability (0.8)",
}

CONFLAYERS_OPTIONS = {
    "variant": "'default', or 'paper' for the search as published, on chains of drafts",
    "unit": "'layer' as published, or 'sublayer' to skip attention and MLP separately",
    "skip_ratio": "least share of the layers to skip at first, 0 to 1 (0.4)",
    "interval": "rounds of a trial (16; paper 30)",
    "context_window": "tokens whose confidences are averaged (32; paper 100)",
    "max_iterations": "candidates tried before the search ends (100)",
    "max_score": "variant 'paper': the search ends at this mean acceptance (0.95)",
    "min_accepted": "variant 'paper': ... if also more tokens than this are accepted a round (4)",
    "window": "the same window for every layer instead of the adaptive one",
    "fallback": "decode plainly where drafts do not pay (True); not with variant 'paper'",
}


def _vanilla(layers: int, plan: Plan | None, options: dict[str, Any]) -> Selector:
    if plan is not None:
        raise InputError("method 'vanilla' decodes plainly and takes no plan; use method 'fixed' or 'conflayers'")
    return Fixed(None)


def _fixed(layers: int, plan: Plan | None, options: dict[str, Any]) -> Selector:
    if plan is None:
        raise InputError("method 'fixed' needs a plan")
    return Fixed(plan)


def _conflayers(layers: int, plan: Plan | None, options: dict[str, Any]) -> Selector:
    variant = options.pop("variant", "default")
    if variant not in ("default", "paper"):
        raise InputError(f"variant must be 'default' or 'paper', not {variant!r}")
    selector: ConfLayers | PublishedConfLayers
    if variant == "paper":
        if "fallback" in options:
            raise InputError("variant 'paper' has no fallback to plain decoding; leave out 'fallback'")
        selector = PublishedConfLayers(layers, Settings(**options))
    else:
        for name in ("max_score", "min_accepted"):
            if name in options:
                raise InputError(f"{name!r} belongs to variant 'paper'; the default judges by tokens per second")
        fallback = options.pop("fallback", True)
        selector = ConfLayers(layers, Settings(**{"interval": 16, "context_window": 32, **options}), fallback)
    if plan is not None:
        selector.keep(plan)
    return selector


METHODS: dict[str, Entry] = {
    "conflayers": Entry(
        "skips the layers whose confidence lies in a valley; searches while it decodes",
        "arXiv 2604.14612",
        _conflayers,
        CONFLAYERS_OPTIONS,
    ),
    "fixed": Entry("drafts by one given plan, always", "arXiv 2309.08168", _fixed, {}),
    "vanilla": Entry("plain decoding, one token a pass", "", _vanilla, {}, drafts=False),
}


def build_method(name: str, layers: int, plan: Plan | None = None, **options: Any) -> Method:
    """A method ready to decode with, for a model of `layers` decoder layers.

    Raises:
        InputError: no such method, an option it does not have, or a value out of range; the message says what there is.
        PlanError: the plan does not fit.
    """
    if name not in METHODS:
        near = get_close_matches(str(name), METHODS, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(f"no method {name!r}{hint}; there are: {', '.join(sorted(METHODS))}")
    entry = METHODS[name]
    allowed = {**entry.options, **(DRAFTER_OPTIONS if entry.drafts else {})}
    for option in options:
        if option not in allowed:
            near = get_close_matches(option, allowed, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            there = ", ".join(allowed) or "none"
            raise InputError(f"method {name!r} has no option {option!r}{hint}; its options: {there}")
    if plan is not None:
        plan.check(layers)
    chain = {field.name: options.pop(field.name) for field in fields(Subnetwork) if field.name in options}
    return Method(name, Subnetwork(**chain), entry.build(layers, plan, options))
