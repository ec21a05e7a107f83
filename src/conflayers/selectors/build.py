"""From a method's options to its selector; what is not this method's is refused."""

from collections.abc import Callable
from typing import Any

from conflayers.costs import Costs
from conflayers.errors import InputError
from conflayers.method_options import VARIANTS
from conflayers.plan import FULL, LOOKUP, NOTHING, PRECISIONS, WHOLE, Plan
from conflayers.round import Selector
from conflayers.selectors import conflayers, draft_verify
from conflayers.selectors.conflayers_published import PublishedConfLayers
from conflayers.selectors.conflayers_rule import RuleOnly
from conflayers.selectors.fixed import Fixed
from conflayers.selectors.rule import Settings
from conflayers.selectors.searching import Searching

Options = dict[str, Any]
# Makes a selector from the costs, the number of layers, a plan if one is given, and the options.
Build = Callable[[Costs, int, Plan | None, Options], Selector]
VIEWS = tuple(name for name in PRECISIONS if name not in (WHOLE, NOTHING))


def build_vanilla(costs: Costs, layers: int, plan: Plan | None, options: Options) -> Selector:
    """Plain decoding."""
    if plan is not None:
        raise InputError("method 'vanilla' decodes plainly and takes no plan; use method 'fixed' or 'conflayers'")
    return Fixed(None)


def build_fixed(costs: Costs, layers: int, plan: Plan | None, options: Options) -> Selector:
    """A given plan."""
    if plan is None:
        raise InputError("method 'fixed' needs a plan")
    return Fixed(plan)


def build_draft_verify(costs: Costs, layers: int, plan: Plan | None, options: Options) -> Selector:
    """A plan that was searched beforehand."""
    draft_verify.Settings(**options)
    if plan is None:
        raise InputError(
            "method 'draft-verify' drafts by a plan that is found beforehand: run `conflayers search MODEL --method "
            "draft-verify --data FILE --budget SECONDS --out plan.json`, then give it the plan"
        )
    _nothing_idle(plan, options)
    return Fixed(plan)


def build_blind(make: Callable[..., Plan]) -> Build:
    """A plan made from the options alone."""

    def build(costs: Costs, layers: int, plan: Plan | None, options: Options) -> Selector:
        _nothing_idle(plan, options)
        return Fixed(plan or make(layers, **options))

    return build


def build_conflayers(costs: Costs, layers: int, plan: Plan | None, options: Options) -> Selector:
    """The variant that the options name."""
    variant = options.pop("variant", "default")
    if variant not in VARIANTS:
        raise InputError(f"variant must be {', '.join(map(repr, VARIANTS))}, not {variant!r}")
    for name in sorted(set(options) - VARIANTS[variant] - {"fallback"}):
        others = " or ".join(repr(other) for other, names in VARIANTS.items() if name in names)
        raise InputError(f"{name!r} belongs to variant {others}; variant {variant!r} has no such option")
    lasting = {"fallback": options.pop("fallback")} if "fallback" in options else {}
    _nothing_idle(plan, options)
    selector: conflayers.ConfLayers | PublishedConfLayers | RuleOnly
    if variant == "paper":
        selector = PublishedConfLayers(layers, Settings(**options))
    elif variant == "rule":
        own = {name: options.pop(name) for name in ("lam", "confidence") if name in options}
        selector = RuleOnly(layers, Settings(**options), **own)
    else:
        selector = conflayers.ConfLayers(layers, costs=costs, **lasting, **options)
    if plan is not None:
        selector.keep(plan)
    return selector


def build_auto(costs: Costs, layers: int, plan: Plan | None, options: Options) -> Selector:
    """The search of ConfLayers, with lookups and lower precision."""
    fallback = options.pop("fallback", True)
    _nothing_idle(plan, options)
    selector = conflayers.ConfLayers(layers, fallback, costs, **{"lookup": True, "views": True, **options})
    if plan is not None:
        selector.keep(plan)
    return selector


def build_lookup(costs: Costs, layers: int, plan: Plan | None, options: Options) -> Selector:
    """Drafts from the text alone."""
    if plan is not None:
        raise InputError("method 'lookup' drafts from the text and takes no plan; use method 'auto' with it")
    return Fixed(LOOKUP)


def build_view(costs: Costs, layers: int, plan: Plan | None, options: Options) -> Selector:
    """All sublayers in lower precision."""
    if plan is not None:
        raise InputError("method 'view' drafts with all sublayers and takes no plan; use method 'fixed' with it")
    precision = options.pop("precision", "int8")
    if precision not in VIEWS:
        raise InputError(f"precision must be {' or '.join(map(repr, VIEWS))}, not {precision!r}")
    return Fixed(FULL.at(precision))


def build_searching(selector: Callable[[int, Any], Searching], settings: Callable[..., Any]) -> Build:
    """A selector that has settings and can be told to keep a plan."""

    def build(costs: Costs, layers: int, plan: Plan | None, options: Options) -> Selector:
        _nothing_idle(plan, options)
        made = selector(layers, settings(**options))
        if plan is not None:
            made.keep(plan)
        return made

    return build


def _nothing_idle(plan: Plan | None, options: Options) -> None:
    if plan is not None and options:
        idle = ", ".join(map(repr, sorted(options)))
        raise InputError(f"with a plan nothing is searched for: leave out {idle}, or the plan")
