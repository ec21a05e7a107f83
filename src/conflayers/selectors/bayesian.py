"""Sets of sublayers as points of a Bayesian optimisation, which the package bayesian-optimization does."""

from functools import partial
from typing import Any

from conflayers.errors import InputError
from conflayers.plan import Plan
from conflayers.selectors.uniform import candidates

# Starting points from which the most promising point is climbed to. The package takes 10, and up to a minute for 56
# variables.
CLIMBS = 1


def optimizer(layers: int, *, kappa: float, alpha: float, seed: int, method: str, instead: str = "") -> Any:
    """An optimiser over [0, 1] for every candidate sublayer, attentions first; `suggest()` gives a point.

    Args:
        layers: decoder layers of the model, 3 or more.
        kappa: of the upper confidence bound, which decides where to look next.
        alpha: variance of the scores' noise, for the Gaussian process.
        seed: of everything random in it.
        method, instead: who asks, and what a user can do in place of installing the package, for the message.

    Raises:
        InputError: the package is not installed.
    """
    try:
        from bayes_opt import BayesianOptimization
        from bayes_opt.acquisition import UpperConfidenceBound
    except ImportError as error:
        raise InputError(
            f"method {method!r} proposes candidates with the package bayesian-optimization, which is not installed: "
            f"pip install 'conflayers[search]'{instead}"
        ) from error
    acquisition = UpperConfidenceBound(kappa=kappa)
    acquisition.suggest = partial(acquisition.suggest, n_smart=CLIMBS)
    names = [_name(i) for i in range(2 * len(candidates(layers)))]
    made = BayesianOptimization(
        f=None,
        pbounds=dict.fromkeys(names, (0.0, 1.0)),
        acquisition_function=acquisition,
        random_state=seed,
        allow_duplicate_points=True,
        verbose=0,
    )
    made.set_gp_params(alpha=alpha)
    return made


def point(plan: Plan, layers: int) -> dict[str, float]:
    """1 where a candidate sublayer is skipped, else 0."""
    choice = candidates(layers)
    skipped = [layer in plan.attention for layer in choice] + [layer in plan.mlp for layer in choice]
    return {_name(index): float(bit) for index, bit in enumerate(skipped)}


def coordinates(suggested: dict[str, float]) -> list[float]:
    """What `suggest()` gave, in the order of `uniform.from_bits`: attentions first, then MLPs."""
    return [float(suggested[_name(index)]) for index in range(len(suggested))]


def _name(index: int) -> str:
    return f"x{index:04d}"
