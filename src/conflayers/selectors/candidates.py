"""Plans that one set of confidences suggests, by several rules.

No rule is the best on every model. The published one compares a layer with its neighbours, and so cannot take a run of
idle layers; the least confident layers are such a run in models trained with layer dropout. All are cheap to make;
which is right is for a look at the text to say.
"""

import torch

from conflayers.plan import Plan
from conflayers.selectors.rule import FLOOR, Settings, every_second_layer, landscapes, skip_set

LEAST, VALLEY, SUBLAYERS, START = "least confident layers", "valley", "least confident sublayers", "every second layer"
LAMBDAS = (-0.4, -0.2, 0.0, 0.2, 0.4)
# Sizes of each kind, at most: deep models have larger steps between them.
MOST_SIZES = 24


def suggest(confidences: torch.Tensor) -> dict[Plan, str]:
    """Candidates and the rule each comes from; the first rule that names a plan has it. None skips nothing.

    Args:
        confidences: of every attention and MLP, [2, layers], attention first.
    """
    layers = confidences.shape[1]
    found: dict[Plan, str] = {}
    for rule, plans in (
        (LEAST, _least_layers(confidences)),
        (SUBLAYERS, _least_sublayers(confidences)),
        (VALLEY, _valleys(confidences)),
        (START, [every_second_layer(layers)]),
    ):
        for plan in plans:
            if plan.skipped:
                found.setdefault(plan, rule)
    return found


def _least_layers(confidences: torch.Tensor) -> list[Plan]:
    inner = confidences.sum(0)[1:-1]
    order = (inner.argsort(stable=True) + 1).tolist()
    return [Plan.layers(order[:count]) for count in _sizes(len(order))]


def _least_sublayers(confidences: torch.Tensor) -> list[Plan]:
    """Attentions and MLPs by their place among their kind: the two kinds' confidences are on different scales."""
    inner = confidences[:, 1:-1].double().clamp(min=FLOOR).log()
    width = inner.shape[1]
    if width < 2:
        return []
    standard = (inner - inner.mean(1, keepdim=True)) / (inner.std(1, keepdim=True) + 1e-9)
    order = standard.flatten().argsort(stable=True).tolist()
    plans = []
    for count in _sizes(len(order)):
        attention = frozenset(i + 1 for i in order[:count] if i < width)
        mlp = frozenset(i - width + 1 for i in order[:count] if i >= width)
        plans.append(Plan(attention, mlp))
    return plans


def _valleys(confidences: torch.Tensor) -> list[Plan]:
    plans = []
    for published in (False, True):
        seen = landscapes(confidences, Settings(), published=published)
        plans += [skip_set(seen, lam) for lam in LAMBDAS]
    return plans


def _sizes(most: int) -> range:
    return range(1, most + 1, max(1, -(-most // MOST_SIZES)))
