"""Find a plan for a model and a task: any method's search, run over prompts of the task within a budget of seconds.

Three kinds of methods are run here. Draft & Verify scores candidates by their measured speed. Those that search while
they decode answer the prompts, one task for all. Those that look at nothing name their plan at once. What comes out is
then compared with plain decoding, in turns on the same prompts.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from conflayers.api import Llm
from conflayers.errors import InputError
from conflayers.plan import FULL, LOOKUP, Plan
from conflayers.round import Method, Selector, standings_of
from conflayers.search.data import PromptFile
from conflayers.search.interval import speedup_interval
from conflayers.search.progress import Progress, Speed
from conflayers.search.wanted import BLIND, OFFLINE, ONE_PASS, Wanted
from conflayers.search.watched import Watched, go_on_with
from conflayers.selectors.draft_verify import DraftVerifySearch

# The share of the budget that is kept for the comparison, and how often it goes over the prompts at most.
COMPARED_SHARE = 0.2
COMPARED_PASSES = 3
WARM_UP_TOKENS = 8

Ids = list[int]
# Speed of decoding by a plan, None for plainly, after token ids, with so many new tokens.
Measure = Callable[[Plan | None, Ids, int], Speed]
# Told what is being done, and which share of the budget is spent, 0 to 1.
Tell = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search came to.

    Attributes:
        plan: what was found; None where the method ended without a plan and none was faster than plain decoding.
        fallback: the method ended without a plan, whatever `plan` says.
        lookups: it ended with lookups, which need no plan, and not at plain decoding.
        plain, drafted: plain decoding and the best plan, in turns on the same prompts.
        decisions: of the method, in words.
        expected: the highest speedup that the method forecast of a plan; None where none is known.
        interval: 95%, of `speedup`; None where fewer than two prompts were compared.
    """

    plan: Plan | None
    fallback: bool
    lookups: bool
    plain: Speed
    drafted: Speed
    decisions: list[str]
    expected: float | None = None
    interval: tuple[float, float] | None = None

    @property
    def speedup(self) -> float | None:
        """Tokens a second by the plan over those of plain decoding; None where nothing was compared."""
        return self.drafted.per_second / self.plain.per_second if self.plain.per_second else None


class Search:
    """One search, from where its progress file says it is.

    Args:
        llm: the model.
        wanted: what is searched for.
        data: prompts of the task.
        path: the progress file.
        measure: measures a speed; by default by decoding.
        clock: seconds, for the budget.
        tell: what to call before every step.

    Raises:
        InputError: what is wanted cannot be had, a prompt does not fit the model, or `path` belongs to another search.
    """

    def __init__(
        self,
        llm: Llm,
        wanted: Wanted,
        data: PromptFile,
        path: Path,
        *,
        measure: Measure | None = None,
        clock: Callable[[], float] = time.perf_counter,
        tell: Tell = lambda what, share: None,
    ) -> None:
        wanted.check()
        self.llm, self.wanted, self.data, self.path = llm, wanted, data, path
        self._measure = measure or self._decode_once
        self._clock, self._tell = clock, tell
        if llm.body.layers < 3:
            raise InputError(f"{llm.name} has no layer to skip: the first and the last of its layers always run")
        self.prompts = [self._encoded(text, line) for text, line in zip(data.prompts, data.lines, strict=True)]
        self.progress = Progress.load(path, self._subject(), llm.body.layers)
        self._decisions: list[str] = []
        self._expected: float | None = None
        self._begun = 0.0

    def run(self) -> Outcome:
        """Search until the budget is over, then compare. Progress is saved after every step.

        Whatever ends it, the progress file is as after the last whole step; `finish` removes it.
        """
        self._warm_up()
        self._begun = self._clock() - self.progress.seconds
        limit = self.wanted.budget * (1 - COMPARED_SHARE)
        if self.wanted.method == OFFLINE:
            self._score(limit)
        elif self.wanted.method in BLIND:
            self.progress.plan = _worth_saving(self._task().plan)
        elif not self.progress.ended:
            self._answer(limit)
        best = self.progress.plan or self._fastest_used()
        if best is not None:
            self._compare(best)
        plain = sum((plain for plain, _ in self.progress.pairs), Speed())
        drafted = sum((drafted for _, drafted in self.progress.pairs), Speed())
        fallback = self.progress.plan is None
        if fallback and drafted.per_second <= plain.per_second:
            best = None
        lookups = fallback and self.progress.lookups
        interval = speedup_interval(self.progress.pairs, len(self.prompts))
        return Outcome(best, fallback, lookups, plain, drafted, self._decisions, self._expected, interval)

    @property
    def over(self) -> bool:
        """Whether it was the budget that ended the method's search, and not the method or the end of the prompts."""
        progress, wanted = self.progress, self.wanted
        every_prompt = wanted.method in ONE_PASS and progress.prompts >= len(self.prompts)
        return not (progress.ended or every_prompt or wanted.method in BLIND)

    @property
    def candidates(self) -> int:
        """Plans that were scored, or drafted with."""
        return len(self.progress.candidates) or len([plan for plan in self.progress.used if plan is not None])

    def finish(self) -> None:
        """Remove the progress file: there is nothing to go on with."""
        self.path.unlink(missing_ok=True)

    def _score(self, limit: float) -> None:
        """Candidates of Draft & Verify, each by its speed over all prompts."""
        progress = self.progress
        search = DraftVerifySearch(self.llm.body.layers, self.wanted.settings, progress.candidates)
        for done in self._steps(limit, len(progress.candidates)):
            self._show(f"candidate {done + 1}")
            plan = search.ask()
            if plan is None:
                break
            speed = sum((self._measure(plan, ids, self._room(ids)) for ids in self.prompts), Speed())
            search.tell(plan, speed.per_second)
            progress.plan = search.best

    def _answer(self, limit: float) -> None:
        """Prompts by one task of a method that searches while it decodes."""
        progress = self.progress
        task = self._task()
        selector = Watched(task.selector, progress.used)
        if progress.plan is not None:
            go_on_with(task.selector, progress.plan)
        task = replace(task, selector=selector)
        for done in self._steps(limit, progress.prompts):
            if done >= len(self.prompts) and self.wanted.method in ONE_PASS:
                break
            self._show(f"prompt {done + 1}")
            ids = self.prompts[done % len(self.prompts)]
            self.llm.generate(ids, task=task, max_new_tokens=self._room(ids))
            progress.prompts, progress.plan = done + 1, _worth_saving(task.plan)
            # A selector's plan is shown as None where it is lookups.
            progress.lookups = getattr(selector.inner, "plan", None) == LOOKUP
            self._decisions, self._expected = task.decisions, _highest_forecast(selector.inner)
            if not getattr(selector.inner, "searching", True):
                progress.ended = True
                break
        self._save()

    def _compare(self, plan: Plan) -> None:
        """Plain decoding and the plan in turns, the order reversed from one prompt to the next."""
        if plan != self.progress.compared:
            self.progress.compared, self.progress.pairs = plan, []
        pairs = self.progress.pairs
        # After an interruption, a view of lower precision is to be made again.
        self.llm.body.prepare(plan)
        for done in self._steps(self.wanted.budget, len(pairs)):
            if done >= COMPARED_PASSES * len(self.prompts):
                break
            self._show(f"comparing on prompt {done + 1}")
            ids = self.prompts[done % len(self.prompts)]
            ways = (None, plan) if done % 2 else (plan, None)
            speeds = {way: self._measure(way, ids, self._room(ids)) for way in ways}
            pairs.append((speeds[None], speeds[plan]))

    def _steps(self, limit: float, done: int) -> Iterator[int]:
        """Count steps from `done` on, as long as one more of the mean length so far ends before `limit` seconds.

        The very first is always made. Progress is saved behind each step, so not before the caller asks for the next.
        """
        begun, made = self._elapsed(), 0
        while True:
            elapsed = self._elapsed()
            one = (elapsed - begun) / made if made else 0.0
            if done + made and elapsed + one >= limit:
                return
            yield done + made
            made += 1
            self._save()

    def _save(self) -> None:
        self.progress.seconds = self._elapsed()
        self.progress.save(self.path)

    def _elapsed(self) -> float:
        return self._clock() - self._begun

    def _show(self, what: str) -> None:
        self._tell(what, min(self._elapsed() / self.wanted.budget, 1.0))

    def _fastest_used(self) -> Plan | None:
        """Of the plans that a method drafted with, the one that brought the most tokens a second."""
        used = {plan: speed for plan, speed in self.progress.used.items() if _worth_saving(plan) is not None}
        return max(used, key=lambda plan: used[plan].per_second, default=None)

    def _task(self) -> Method:
        return self.llm.task(self.wanted.method, **self.wanted.options)

    def _decode_once(self, plan: Plan | None, ids: Ids, count: int) -> Speed:
        """Nothing learnt before: every measurement begins alike."""
        how = {"method": "vanilla"} if plan is None else {"method": self.wanted.method, **self.wanted.by_plan}
        stats = self.llm.generate(ids, plan=plan, max_new_tokens=count, **how).stats
        return Speed(stats.new_tokens, stats.total_seconds)

    def _warm_up(self) -> None:
        """Memory for the longest prompt, and a few tokens: whoever is measured first must not pay for all."""
        self.llm.body.reserve(max(len(ids) + self._room(ids) for ids in self.prompts))
        count = min(WARM_UP_TOKENS, self._room(self.prompts[0]))
        for method in ("vanilla", "uniform"):
            self.llm.generate(self.prompts[0], method=method, max_new_tokens=count)

    def _encoded(self, text: str, line: int) -> Ids:
        try:
            ids = self.llm.encode(text, chat=self.wanted.chat)
        except InputError as error:
            raise InputError(f"{self.data.name}, line {line}: {error}") from error
        if self._room(ids) < 1:
            context = self.llm.body.context
            raise InputError(
                f"{self.data.name}, line {line}: {len(ids)} tokens leave no room in the model's context of {context}"
            )
        return ids

    def _room(self, ids: Ids) -> int:
        return min(self.wanted.tokens, self.llm.body.context - len(ids))

    def _subject(self) -> dict[str, Any]:
        return {
            "model": asdict(self.llm.body.identity),
            "dtype": str(self.llm.model.dtype),
            "device": str(self.llm.model.device),
            "threads": torch.get_num_threads(),
            "method": self.wanted.method,
            "options": self.wanted.options,
            "data": self.data.name,
            "data digest": self.data.digest,
            "prompts": len(self.data.prompts),
            "max_new_tokens": self.wanted.tokens,
            "chat": self.wanted.chat,
        }


def _highest_forecast(selector: Selector) -> float | None:
    return max((one.forecast for one in standings_of(selector) if one.forecast is not None), default=None)


def _worth_saving(plan: Plan | None) -> Plan | None:
    """To draft with the whole model as it is saves nothing, and lookups need no plan."""
    return None if plan in (FULL, LOOKUP) else plan
