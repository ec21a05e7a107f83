"""The table of methods: what each is, where it comes from, and how it is put together."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from conflayers.costs import Costs
from conflayers.drafters.build import DRAFTER_OPTIONS as DRAFTER_OPTIONS
from conflayers.drafters.build import build_drafter
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
        build: makes the selector from the costs, the number of layers, a plan if one is given, and the options.
        options: name -> meaning, of what `build` takes besides the drafter's options.
        drafts: whether it drafts at all, and so takes the drafter's options.
    """

    summary: str
    source: str
    build: Callable[[Costs, int, Plan | None, dict[str, Any]], Selector]
    options: dict[str, str]
    drafts: bool = True


CONFLAYERS_OPTIONS = {
    "variant": "'default', or 'paper' for the search and the drafts as published",
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


def _vanilla(costs: Costs, layers: int, plan: Plan | None, options: dict[str, Any]) -> Selector:
    if plan is not None:
        raise InputError("method 'vanilla' decodes plainly and takes no plan; use method 'fixed' or 'conflayers'")
    return Fixed(None)


def _fixed(costs: Costs, layers: int, plan: Plan | None, options: dict[str, Any]) -> Selector:
    if plan is None:
        raise InputError("method 'fixed' needs a plan")
    return Fixed(plan)


def _conflayers(costs: Costs, layers: int, plan: Plan | None, options: dict[str, Any]) -> Selector:
    variant = options.pop("variant", "default")
    if variant not in ("default", "paper"):
        raise InputError(f"variant must be 'default' or 'paper', not {variant!r}")
    if plan is not None and (idle := sorted(options.keys() - {"fallback"})):
        raise InputError(f"with a plan nothing is searched for: leave out {', '.join(map(repr, idle))}, or the plan")
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
        selector = ConfLayers(layers, Settings(**{"interval": 16, "context_window": 32, **options}), fallback, costs)
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
    costs = Costs(layers)
    drafter = build_drafter(options, costs, published=options.get("variant") == "paper")
    return Method(name, drafter, entry.build(costs, layers, plan, options), costs)
