"""Plans that look at nothing: every so-many-th layer, and chance. What every method has to beat."""

import random

from conflayers.options import share, whole
from conflayers.plan import Plan


def candidates(layers: int) -> range:
    """The layers that may be skipped: all but the first and the last."""
    return range(1, layers - 1)


def uniform_plan(layers: int, skip_ratio: float = 0.4) -> Plan:
    """Whole layers at equal distances.

    Args:
        layers: decoder layers of the model.
        skip_ratio: share of the candidate layers to skip, 0 to 1; rounded to whole layers.

    Raises:
        InputError: a value out of range.
    """
    share("skip_ratio", skip_ratio)
    choice = candidates(layers)
    count = round(len(choice) * skip_ratio)
    return Plan.layers(choice[int((i + 0.5) * len(choice) / count)] for i in range(count))


def random_plan(layers: int, skip_ratio: float = 0.4, plan_seed: int = 0) -> Plan:
    """Sublayers drawn at random, attention and MLP alike.

    Args:
        layers: decoder layers of the model.
        skip_ratio: share of the candidate sublayers to skip, 0 to 1; rounded to whole sublayers.
        plan_seed: the same one draws the same plan.

    Raises:
        InputError: a value out of range.
    """
    share("skip_ratio", skip_ratio)
    whole("plan_seed", plan_seed, 0)
    return sublayers(random.Random(plan_seed), layers, round(2 * len(candidates(layers)) * skip_ratio))


def sublayers(source: random.Random, layers: int, count: int) -> Plan:
    """`count` different candidate sublayers."""
    indices = source.sample(range(2 * len(candidates(layers))), count)
    return from_bits(layers, indices)


def from_bits(layers: int, indices: list[int]) -> Plan:
    """A plan from indices into the candidates' attentions, in order, followed by their MLPs."""
    choice = candidates(layers)
    attention = frozenset(choice[i] for i in indices if i < len(choice))
    mlp = frozenset(choice[i - len(choice)] for i in indices if i >= len(choice))
    return Plan(attention, mlp)
