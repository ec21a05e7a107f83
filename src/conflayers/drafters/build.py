"""From a method's options to its drafter."""

from collections.abc import Mapping
from typing import Any

from conflayers.costs import Costs
from conflayers.drafters.calibration import Calibration
from conflayers.drafters.length import (
    CONFIDENCE,
    MAX_TOKENS,
    AdaptiveThreshold,
    ConfidenceStop,
    ExpectedGain,
    FixedLength,
    Length,
)
from conflayers.drafters.lookup import Lookup
from conflayers.drafters.siblings import NoSiblings, PublishedSiblings, Siblings, WorthwhileSiblings
from conflayers.drafters.subnetwork import Subnetwork
from conflayers.errors import InputError

DRAFTER_OPTIONS = {
    "draft_length": "'gain' stops where another token costs more than it is expected to save (default); 'confidence' "
    "after a doubtful token; 'adaptive' by the moving threshold of Draft & Verify; or a fixed number",
    "max_draft_tokens": "longest chain drafted, 1 or more (25; with draft_length 'adaptive' 8)",
    "confidence_stop": "draft_length 'confidence': a chain ends after a token of a lower confidence (0.8); "
    "'adaptive': where the threshold begins",
    "tree": "other tokens verified beside the chain: 'gain' as many as pay for their row (default), 'paper' as in "
    "SWIFT and ConfLayers, 'none'",
}
LENGTHS = ("gain", "confidence", "adaptive")
TREES = ("gain", "paper", "none")


def build_drafter(options: dict[str, Any], costs: Costs, defaults: Mapping[str, Any]) -> Subnetwork:
    """Take the drafter's options out of `options`.

    Args:
        options: what a user gave; what belongs to the drafter is removed.
        costs: what the default rules decide by.
        defaults: a method's own values for what is not given, in place of the rules by cost.

    Raises:
        InputError: a value out of range, or options that contradict each other.
    """
    given = {name: options.pop(name) for name in DRAFTER_OPTIONS if name in options}
    # Who asks for another rule of length does not get the details of the method's own.
    other_rule = "draft_length" in given and given["draft_length"] != defaults.get("draft_length")
    own = {name: value for name, value in defaults.items() if name == "tree" or not other_rule}
    values = {**own, **given}
    calibration = Calibration()
    return Subnetwork(_length(values, costs, calibration), _siblings(values.get("tree", "gain"), costs, calibration))


def build_lookup_drafter(options: dict[str, Any], costs: Costs) -> Lookup:
    """Take the drafter's options out of `options`, for drafts that are also looked up.

    Raises:
        InputError: a value out of range.
    """
    calibration = Calibration()
    siblings = _siblings(options.pop("tree", "gain"), costs, calibration)
    return Lookup(costs, calibration, siblings, options.pop("max_draft_tokens", MAX_TOKENS))


def _length(given: dict[str, Any], costs: Costs, calibration: Calibration) -> Length:
    most = {"max_tokens": given["max_draft_tokens"]} if "max_draft_tokens" in given else {}
    stop = given.get("confidence_stop", CONFIDENCE)
    rule = given.get("draft_length", "confidence" if "confidence_stop" in given else "gain")
    if "confidence_stop" in given and rule not in ("confidence", "adaptive"):
        raise InputError(f"confidence_stop belongs to draft_length 'confidence' or 'adaptive', not to {rule!r}")
    if rule == "gain":
        return ExpectedGain(costs, calibration=calibration, **most)
    if rule == "confidence":
        return ConfidenceStop(most.get("max_tokens", MAX_TOKENS), stop)
    if rule == "adaptive":
        return AdaptiveThreshold(threshold=stop, **most)
    if isinstance(rule, str):
        raise InputError(f"draft_length must be {', '.join(map(repr, LENGTHS))} or a whole number, not {rule!r}")
    if most:
        raise InputError(f"draft_length={rule!r} is a fixed length: leave out max_draft_tokens")
    return FixedLength(rule)


def _siblings(rule: Any, costs: Costs, calibration: Calibration) -> Siblings:
    if rule == "gain":
        return WorthwhileSiblings(costs, calibration)
    if rule == "paper":
        return PublishedSiblings()
    if rule == "none" or rule is None:
        return NoSiblings()
    raise InputError(f"tree must be {', '.join(map(repr, TREES[:-1]))} or {TREES[-1]!r}, not {rule!r}")
