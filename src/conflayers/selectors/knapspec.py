"""KnapSpec (arXiv 2602.20217): the sublayers to skip as a knapsack, by what they cost and what is lost without them.

Every sublayer has a weight, its measured time; for every total weight skipped, a dynamic programme keeps the states
closest to the whole model's on the last tokens. What is left at the end is judged by how often it names the whole
model's token, and by expected tokens per second. All cells run as branches of one pass, of which the first is the whole
model. Other than in the released code, skipping nothing is among the choices, and means plain decoding; times are
measured at the present context instead of beforehand; and it looks at the tokens of the first five rounds of every 64,
not of the second to the sixth.
"""

import time
from dataclasses import dataclass, field

import torch

from conflayers.body.contract import ATTENTION, LAYER, MLP, Run, Trace
from conflayers.errors import InputError
from conflayers.options import share, whole
from conflayers.plan import FULL, Plan
from conflayers.round import Round, State
from conflayers.selectors.searching import Searching, closeness, need_branches

# Weights are ratios of times, rounded and capped; cells less like the whole model than this are given up; and draft
# lengths up to this are considered: as in the released code.
HEAVIEST = 5
LEAST_COSINE = 0.5
LONGEST = 18
# Cosine of a layer's output with that of its two sublayers in turn; only rounding lies between them.
LIKE_THE_LAYER = 0.99


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of KnapSpec, with the values of its released code.

    Attributes:
        interval: verifications between two searches.
        rounds: verifications whose accepted tokens are looked at.
        budget: share of the whole weight that may be skipped, 0 to 1.
    """

    interval: int = 64
    rounds: int = 5
    budget: float = 0.5

    def __post_init__(self) -> None:
        whole("interval", self.interval, 1)
        whole("rounds", self.rounds, 1)
        if self.interval < self.rounds:
            raise InputError(f"interval={self.interval} is less than rounds={self.rounds}: it would never search")
        share("budget", self.budget)


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of one token's attention and MLP at the present context."""

    attention: float
    mlp: float

    @property
    def weights(self) -> tuple[int, int]:
        """Of attention and MLP: the cheaper one weighs 1."""
        heavy, light = max(self.attention, self.mlp), min(self.attention, self.mlp)
        ratio = min(max(round(heavy / light), 1), HEAVIEST) if light > 0 else 1
        return (ratio, 1) if self.attention >= self.mlp else (1, ratio)


def measure(state: State) -> Times:
    """Time every attention and every MLP on the last cached token.

    Raises:
        InputError: a layer is not its attention followed by its MLP.
    """
    seconds = {ATTENTION: 0.0, MLP: 0.0}

    def step(index: int, states: torch.Tensor, run: Run) -> torch.Tensor:
        whole, split = run(states, LAYER), states
        float(whole.sum())  # waits for the device, so that nothing of it is timed below
        for part in seconds:
            begun = time.perf_counter()
            split = run(split, part)
            float(split.sum())  # waits for the device
            seconds[part] += time.perf_counter() - begun
        if not closeness(split, whole) > LIKE_THE_LAYER:
            raise InputError(
                f"method 'knapspec' takes sublayers one after the other, and in layer {index} of this model attention "
                "and MLP run side by side: use 'clasp', which skips whole layers"
            )
        return whole

    state.body.walk(state.tokens[state.body.length - 1 : state.body.length], 1, step)
    return Times(seconds[ATTENTION], seconds[MLP])


@dataclass(slots=True)
class Knapsack:
    """The dynamic programme over one pass.

    Attributes:
        layers: decoder layers of the model.
        weights: of an attention and of an MLP.
        budget: the most weight that may be skipped; cells are 0 to `budget`.
        choices: by sublayer, for every cell, whether it was reached by skipping the sublayer.
    """

    layers: int
    weights: tuple[int, int]
    budget: int
    choices: list[torch.Tensor] = field(default_factory=list)
    alive: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.alive = torch.zeros(self.budget + 1, dtype=torch.bool)
        self.alive[0] = True

    def step(self, index: int, states: torch.Tensor, run: Run) -> torch.Tensor:
        """One layer: its attention, then its MLP. The first layer always runs, and so does the last."""
        self.alive = self.alive.to(states.device)
        for part, weight in zip((ATTENTION, MLP), self.weights, strict=True):
            states = self._sublayer(states, run(states, part), weight, may_skip=0 < index < self.layers - 1)
        return states

    def _sublayer(self, states: torch.Tensor, ran: torch.Tensor, weight: int, *, may_skip: bool) -> torch.Tensor:
        target = ran[:1]  # cell 0 has skipped nothing
        run_score = closeness(ran, target).masked_fill(~self.alive, -2.0)
        skip_score = torch.full_like(run_score, -2.0)
        source = (torch.arange(len(states), device=states.device) - weight).clamp(min=0)
        if may_skip:
            came = closeness(states, target).masked_fill(~self.alive, -2.0)[source]
            skip_score[weight:] = came[weight:]
        skips = skip_score > run_score
        best = torch.maximum(run_score, skip_score)
        self.choices.append(skips)
        self.alive = best >= LEAST_COSINE
        return torch.where(skips[:, None, None], states[source], ran)

    def plan(self, cell: int) -> Plan:
        """The sublayers skipped on the way to a cell."""
        attention: set[int] = set()
        mlp: set[int] = set()
        for index in reversed(range(2 * self.layers)):
            if bool(self.choices[index][cell]):
                (mlp if index % 2 else attention).add(index // 2)
                cell -= self.weights[index % 2]
        return Plan(frozenset(attention), frozenset(mlp))


def tokens_per_time(acceptance: float, plan: Plan, layers: int, times: Times) -> float:
    """The best over draft lengths, 0 to 17, of expected tokens a round over its time (the paper's TPT)."""
    attention, mlp = layers - len(plan.attention), layers - len(plan.mlp)
    best = 0.0
    expected = 1.0
    for length in range(LONGEST):
        seconds = times.attention * (attention * length + layers) + times.mlp * (mlp * length + layers)
        best = max(best, expected / seconds) if seconds > 0 else best
        expected += acceptance ** (length + 1)
    return best


def solve(state: State, tokens: int, layers: int, budget: float) -> tuple[Plan, float]:
    """The plan of most tokens per time, and the acceptance expected of it.

    Args:
        state: the request.
        tokens: how many of the last cached tokens to look at.
        layers: decoder layers of the model.
        budget: share of the whole weight that may be skipped.
    """
    times = measure(state)
    knapsack = Knapsack(layers, times.weights, int(sum(times.weights) * layers * budget))
    length = state.body.length
    logits = state.body.walk(state.tokens[length - tokens : length], knapsack.budget + 1, knapsack.step)
    said = logits.float().argmax(-1)
    agreement = (said == said[:1]).float().mean(-1)
    best = (tokens_per_time(0.0, FULL, layers, times), FULL, 1.0)
    for cell in range(1, knapsack.budget + 1):
        if bool(knapsack.alive[cell]):
            plan, acceptance = knapsack.plan(cell), float(agreement[cell])
            best = max(best, (tokens_per_time(acceptance, plan, layers, times), plan, acceptance), key=lambda b: b[0])
    return best[1], best[2]


@dataclass(slots=True)
class KnapSpec(Searching):
    """The search every so many verifications.

    Attributes:
        settings: see there.
        searches: how many there were.
    """

    settings: Settings = field(default_factory=Settings)
    searches: int = 0
    _rounds: int = 0
    _tokens: int = 0

    def start(self, state: State, prefill: Trace | None) -> None:
        """A new text: search on it after a few rounds."""
        if self.searching:
            need_branches("knapspec", state)
        self._rounds = self._tokens = 0

    def learn(self, state: State, done: Round) -> None:
        """Collect the tokens of a few rounds, search, and do so again when it is time."""
        self._rounds += 1
        if self._rounds <= self.settings.rounds:
            self._tokens += done.kept
        if self._rounds == self.settings.rounds and self.searching and state.left:
            plan, acceptance = solve(state, self._tokens, self.layers, self.settings.budget)
            self.plan = None if plan == FULL else plan
            self.searches += 1
            self.decisions.append(f"{plan}: {acceptance:.0%} acceptance expected on the last {self._tokens} tokens")
        if self._rounds >= self.settings.interval:
            self._rounds = self._tokens = 0
