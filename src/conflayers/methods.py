"""The table of methods: what each is, where it comes from, and how it is put together."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from conflayers.costs import Costs
from conflayers.drafters.build import DRAFTER_OPTIONS as DRAFTER_OPTIONS
from conflayers.drafters.build import build_drafter, build_lookup_drafter
from conflayers.errors import InputError
from conflayers.method_options import (
    AUTO_OPTIONS,
    CLASP_OPTIONS,
    COMMON_OPTIONS,
    CONFLAYERS_OPTIONS,
    COSINE_OPTIONS,
    DRAFT_VERIFY_OPTIONS,
    KNAPSPEC_OPTIONS,
    SWIFT_OPTIONS,
)
from conflayers.options import NOT_HERE, yes_or_no
from conflayers.plan import Plan
from conflayers.round import Method, Selector, check_selector
from conflayers.selectors import clasp, cosine, knapspec, swift
from conflayers.selectors.build import (
    Build,
    Options,
    build_auto,
    build_blind,
    build_conflayers,
    build_draft_verify,
    build_fixed,
    build_lookup,
    build_searching,
    build_vanilla,
    build_view,
)
from conflayers.selectors.fallback import Fallback
from conflayers.selectors.uniform import random_plan, uniform_plan

# A confidence stop and trees as in SWIFT and ConfLayers; a chain as in CLaSp and KnapSpec.
PUBLISHED_TREE = {"draft_length": "confidence", "tree": "paper"}
PUBLISHED_CHAIN = {"draft_length": "confidence", "confidence_stop": 0.7, "tree": "none"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the table.

    Attributes:
        summary: the idea in a line.
        source: the paper.
        build: makes the selector from the costs, the number of layers, a plan if one is given, and the options.
        options: name -> meaning, of what `build` takes besides the drafter's options.
        drafts: whether it drafts at all, and so takes the drafter's options.
        lookup: whether drafts are also looked up in the text.
        takes: names of the drafter's options that it has.
        drafting: the drafter's options as its paper has them; where empty, the rules by measured cost.
    """

    summary: str
    source: str
    build: Build
    options: dict[str, str] = field(default_factory=dict)
    drafts: bool = True
    lookup: bool = False
    takes: tuple[str, ...] = tuple(DRAFTER_OPTIONS)
    drafting: Mapping[str, Any] = field(default_factory=dict)

    @property
    def drafter_options(self) -> dict[str, str]:
        """name -> meaning, of the drafter's options that it takes."""
        if not self.drafts:
            return {}
        return {name: DRAFTER_OPTIONS[name] for name in self.takes}

    @property
    def every_option(self) -> dict[str, str]:
        """name -> meaning, of all that it takes, its own last."""
        return {**(COMMON_OPTIONS if self.drafts else {}), **self.drafter_options, **self.options}


METHODS: dict[str, Entry] = {
    "auto": Entry(
        "whatever is measured to be fastest: earlier text, lower precision, fewer layers, or plain decoding",
        "",
        build_auto,
        AUTO_OPTIONS,
        lookup=True,
        takes=("max_draft_tokens", "tree"),
    ),
    "conflayers": Entry(
        "skips the layers of low confidence; finds out by itself which, and whether it pays",
        "arXiv 2604.14612",
        build_conflayers,
        CONFLAYERS_OPTIONS,
    ),
    "swift": Entry(
        "skips a fixed number of sublayers, found by random and Bayesian search while it decodes",
        "arXiv 2410.06916",
        build_searching(swift.Swift, swift.Settings),
        SWIFT_OPTIONS,
        drafting=PUBLISHED_TREE,
    ),
    "clasp": Entry(
        "skips the layers that a dynamic programme over the last token's states can spare",
        "arXiv 2505.24196",
        build_searching(clasp.Clasp, clasp.Settings),
        CLASP_OPTIONS,
        drafting=PUBLISHED_CHAIN,
    ),
    "knapspec": Entry(
        "packs the sublayers to skip as a knapsack of measured times, for most tokens per time",
        "arXiv 2602.20217",
        build_searching(knapspec.KnapSpec, knapspec.Settings),
        KNAPSPEC_OPTIONS,
        drafting={**PUBLISHED_CHAIN, "max_draft_tokens": 10},
    ),
    "cosine": Entry(
        "skips the attentions that hardly turn the prompt's hidden states, without a search",
        "arXiv 2410.01028",
        build_searching(cosine.Cosine, cosine.Settings),
        COSINE_OPTIONS,
        drafting={"draft_length": "adaptive", "tree": "none"},
    ),
    "draft-verify": Entry(
        "drafts by a plan that `conflayers search` found beforehand, by Bayesian optimisation of the measured speed",
        "arXiv 2309.08168",
        build_draft_verify,
        DRAFT_VERIFY_OPTIONS,
        drafting={"draft_length": "adaptive", "tree": "none"},
    ),
    "uniform": Entry(
        "skips whole layers at equal distances",
        "",
        build_blind(uniform_plan),
        {"skip_ratio": "share of the layers to skip, 0 to 1 (0.4)"},
    ),
    "random": Entry(
        "skips sublayers drawn at random, once",
        "",
        build_blind(random_plan),
        {"skip_ratio": "share of the sublayers to skip, 0 to 1 (0.4)", "plan_seed": "which ones (0)"},
    ),
    "view": Entry(
        "drafts with all layers in lower precision",
        "",
        build_view,
        {"precision": "'int8' or 'int4' ('int8')"},
    ),
    "lookup": Entry(
        "drafts what came after the longest run of words that the text ends with, when it was there before",
        "arXiv 2411.10666",
        build_lookup,
        lookup=True,
        takes=("max_draft_tokens",),
    ),
    "fixed": Entry("drafts by one given plan, always", "arXiv 2309.08168", build_fixed),
    "vanilla": Entry("plain decoding, one token a pass", "", build_vanilla, drafts=False),
}


def build_method(name: str | Selector, layers: int, plan: Plan | None = None, /, **options: Any) -> Method:
    """A method ready to decode with, by its name or around a selector, for a model of `layers` decoder layers.

    Raises:
        InputError: no such method, an option it does not have, or a value out of range; the message says what there is.
        PlanError: the plan does not fit.
    """
    if not isinstance(name, str):
        return own_method(name, layers, plan, options)
    if name not in METHODS:
        near = get_close_matches(str(name), METHODS, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(f"no method {name!r}{hint}; there are: {', '.join(sorted(METHODS))}")
    check_names(name, options)
    entry = METHODS[name]
    if plan is not None:
        plan.check(layers)
    costs = Costs(layers)
    defaults = PUBLISHED_TREE if options.get("variant") == "paper" else entry.drafting
    looks_up = entry.lookup and options.get("lookup", True)
    drafter = build_lookup_drafter(options, costs) if looks_up else build_drafter(options, costs, defaults)
    # The default ConfLayers weighs plain decoding against every plan by itself.
    weighs = name == "auto" or (name == "conflayers" and options.get("variant", "default") == "default")
    guarded = not weighs and _guarded(options)
    selector = entry.build(costs, layers, plan, options)
    return Method(name, drafter, Fallback(selector, costs) if guarded else selector, costs)


def own_method(selector: Selector, layers: int, plan: Plan | None, options: Options) -> Method:
    """A method around a selector of one's own, under the name of its class; `options` are the drafter's.

    All it has learnt is in the object: given once more, it goes on from there.

    Raises:
        InputError: it is no selector, or comes with a plan or with options that are not the drafter's.
    """
    check_names(selector, options)
    kind = type(selector).__name__
    if plan is not None:
        raise InputError(f"the selector {kind} names the plans itself: leave out plan, or use method 'fixed' with it")
    costs = Costs(layers)
    drafter = build_drafter(options, costs, {})
    return Method(kind, drafter, Fallback(selector, costs) if _guarded(options) else selector, costs)


def _guarded(options: Options) -> bool:
    fallback: bool = options.pop("fallback", False)
    yes_or_no("fallback", fallback)
    return fallback


def check_names(method: str | Selector, options: Iterable[str], others: Iterable[str] = ()) -> None:
    """Refuse options that a method does not have.

    Args:
        method: one of the table, or a selector; any other name is left to `build_method` to refuse.
        options: names to check.
        others: names that are known beside the method's own, to be suggested where they are meant.

    Raises:
        InputError: it names the option, and what may be meant; or what a selector lacks.
    """
    if not isinstance(method, str):
        check_selector(method)
        method, allowed = type(method).__name__, COMMON_OPTIONS | DRAFTER_OPTIONS
    elif method not in METHODS:
        return
    else:
        allowed = METHODS[method].every_option
    for option in options:
        if option in allowed:
            continue
        if option in NOT_HERE:
            raise InputError(f"{option!r} is not honoured here: {NOT_HERE[option]}")
        near = get_close_matches(option, [*others, *allowed], 1, 0.7)
        owners = [name for name, other in METHODS.items() if option in other.options or option in other.drafter_options]
        hint = f" (did you mean {near[0]!r}?)" if near else f" (it belongs to {', '.join(owners)})" if owners else ""
        there = ", ".join(allowed) or "none"
        raise InputError(f"method {method!r} has no option {option!r}{hint}; its options: {there}")
