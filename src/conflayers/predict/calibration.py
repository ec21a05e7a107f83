"""What decoding costs on this machine, timed apart from any run, by short requests that go the whole way.

A token takes more than its pass through the model: it is chosen, its siblings and the length of the draft are decided,
what was accepted is kept and learnt from, and ids become text. So whole rounds are timed, not passes.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from conflayers.bench.spec import split
from conflayers.errors import InputError
from conflayers.methods import DRAFTER_OPTIONS
from conflayers.plan import Plan
from conflayers.predict.watch import Clock, Timed, Watch

if TYPE_CHECKING:
    from conflayers.api import Llm
    from conflayers.round import Method

PLAIN = "vanilla"
# In every turn each method answers one request of so many new tokens: few, so that all meet the machine in one mood.
SAMPLE = 24
TURNS = 32
# Turns that are run and not counted: in them the methods' rules learn what passes cost and confidences are worth.
WARM_UP = 3
# Share of the turns that count: without the slowest as a whole. A burst of other work in the middle of a turn hits one
# method and spares another; left out by turn, and not by method, it is left out for all alike. Means of what is left,
# and not medians: the run they predict was disturbed on average, too.
CALM = 0.75
# How far apart two turns begin in the text: every one is another, and the ends of texts come anywhere in them.
STRIDE = 111
# Options of a method that say how it drafts. Those of its search do not matter to a plan that stays.
DRAFTING_OPTIONS = {*DRAFTER_OPTIONS, "variant"}


@dataclass(frozen=True, slots=True)
class Drafting:
    """Seconds that a method's drafts take.

    Attributes:
        plan: what the drafts skip.
        token: of a drafted token: its pass, choosing it and its siblings, and deciding whether to draft another.
        row: of a token in the verification, drafted or beside.
        round: of all else in a round: the verification's pass, accepting, the cache, what is learnt, the text.
    """

    plan: Plan
    token: float
    row: float
    round: float


@dataclass(frozen=True, slots=True)
class Costs:
    """Mean seconds of what requests are made of.

    Attributes:
        context: tokens in front of the first round timed.
        request: up to the first new token and with it: preparation, and the pass over the prompt.
        plain: a round of plain decoding, which adds one token.
        drafting: by method.
    """

    context: int
    request: float
    plain: float
    drafting: dict[str, Drafting]

    def token(self, method: str, skip_ratio: float, layers: int) -> float:
        """Seconds of a drafted token that skips `skip_ratio`, from one whose plan skips about as much.

        Between a plain round, which is a pass and about as much beside it, and the plan's token, and beyond, lies a
        straight line.
        """
        timed = self.drafting[method]
        whole = timed.plan.skip_ratio(layers)
        if not whole:
            return timed.token
        return max(self.plain + (timed.token - self.plain) * skip_ratio / whole, 0.0)

    def as_dict(self) -> dict[str, Any]:
        """Milliseconds, as plain values for JSON."""
        drafting = {name: _milliseconds(one) for name, one in self.drafting.items()}
        given = {"request_ms": self.request * 1e3, "plain_ms": self.plain * 1e3}
        return {"context": self.context, **given, "drafting": drafting}


def _milliseconds(one: Drafting) -> dict[str, Any]:
    times = {f"{name}_ms": seconds * 1e3 for name, seconds in asdict(one).items() if name != "plan"}
    return {"plan": str(one.plan), **times}


@dataclass(frozen=True, slots=True)
class _Turn:
    """Seconds of one turn as a whole, of its request for one token, and of its rounds by method."""

    seconds: float
    request: float
    rounds: dict[str, list[Timed]]


def calibrate(
    llm: "Llm",
    plans: Mapping[str, Plan],
    written: Sequence[int],
    *,
    prompt: int,
    new_tokens: int,
    choice: Mapping[str, Any] | None = None,
    turns: int = TURNS,
    clock: Clock = time.perf_counter,
) -> Costs:
    """Let plain decoding and every method answer short requests in turns, and take the means of the calmer turns.

    The requests go the whole way: the method's own rules for the draft, the sampler, the round, the text. Only what is
    skipped is fixed, so that nothing is searched for. Prices are by token, row and round, so it does not matter that
    other requests draft more or less and have more of it accepted.

    Args:
        llm: the model; it answers no other request meanwhile.
        plans: what each method's drafts skip, by the method as a benchmark names it, with its options.
        written: text of the kind the model writes, one token or more; pieces of it are the prompts.
        prompt: tokens of a request's prompt, 1 or more.
        new_tokens: tokens a request adds, 2 or more. The rounds timed are those in the middle of them.
        choice: how tokens are chosen: `temperature` and `seed`; greedy if empty.
        turns: how often each answers, 1 or more; the slowest quarter of them is left out.
        clock: seconds, the clock by which the requests time themselves.

    Raises:
        InputError: an argument out of range, no such method, too long a request, or a method that drafted nothing.
        PlanError: a plan that does not fit the model.
    """
    if not written or prompt < 1 or new_tokens < 2 or turns < 1:
        raise InputError("a calibration needs text, a prompt, two new tokens or more and a turn")
    sample = min(SAMPLE, new_tokens)
    context = prompt + (new_tokens - sample) // 2
    text = [*written] * (context // len(written) + 2)
    tasks = {name: _task(llm, name, plan, clock) for name, plan in {PLAIN: None, **plans}.items()}

    def turn(index: int) -> _Turn:
        start = index * STRIDE % len(written)
        return _turn(llm, tasks, text[start : start + context], prompt, sample, choice or {}, clock)

    kept = _calmest([turn(index) for index in range(WARM_UP + turns)][WARM_UP:])
    rounds = {name: [one for each in kept for one in each.rounds[name]] for name in tasks}
    plain = [one.draft + one.rest for one in rounds[PLAIN]]
    if not plain:
        raise InputError("every text ended at once: there was no round to time")
    drafting = {name: _drafting(name, plan, rounds[name]) for name, plan in plans.items()}
    return Costs(context, sum(one.request for one in kept) / len(kept), sum(plain) / len(plain), drafting)


def _calmest(turns: Sequence[_Turn]) -> list[_Turn]:
    return sorted(turns, key=lambda one: one.seconds)[: max(int(len(turns) * CALM), 1)]


def _task(llm: "Llm", name: str, plan: Plan | None, clock: Clock) -> "Method":
    """The method with its own rules for drafts, watched, and with nothing to search for."""
    method, given = split(name)
    options = {key: value for key, value in given.items() if key in DRAFTING_OPTIONS}
    return replace(llm.task(method, plan, **options), selector=Watch(plan, clock))


def _turn(
    llm: "Llm",
    tasks: Mapping[str, "Method"],
    text: Sequence[int],
    prompt: int,
    sample: int,
    choice: Mapping[str, Any],
    clock: Clock,
) -> _Turn:
    begun = clock()
    _answer(llm, tasks[PLAIN], text[:prompt], 1, choice)
    request = clock() - begun
    rounds = {name: _answer(llm, task, text, sample, choice) for name, task in tasks.items()}
    return _Turn(clock() - begun, request, rounds)


def _answer(llm: "Llm", task: "Method", prompt: Sequence[int], count: int, choice: Mapping[str, Any]) -> list[Timed]:
    """The rounds of one request."""
    watch = task.selector
    assert isinstance(watch, Watch)
    for _ in llm.stream(list(prompt), task=task, max_new_tokens=count, **choice):
        pass
    return watch.take()


def _drafting(name: str, plan: Plan, rounds: Sequence[Timed]) -> Drafting:
    drafts = [one for one in rounds if one.drafted]
    if not drafts:
        raise InputError(f"{name} drafted nothing in the requests that were to be timed")
    token = sum(one.draft for one in drafts) / sum(one.drafted for one in drafts)
    base, row = _line([(one.drafted + one.siblings, one.rest) for one in drafts])
    return Drafting(plan, token, row, base)


def _line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Seconds of a round without its rows, and of a row, by least squares over (rows, seconds); neither below 0.

    Where all rounds have as many rows, a row has no price that could be told from the round's.
    """
    rows = sum(x for x, _ in points) / len(points)
    seconds = sum(y for _, y in points) / len(points)
    spread = sum((x - rows) ** 2 for x, _ in points)
    slope = sum((x - rows) * y for x, y in points) / spread if spread else 0.0
    slope = min(max(slope, 0.0), seconds / rows)
    return seconds - slope * rows, slope
