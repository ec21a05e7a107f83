"""Sampled text is distributed as the whole model's own, whatever is drafted: chi-square over the first three tokens."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from conflayers.acceptance import Verdict, accept_sampled
from conflayers.body.contract import Following, Pass, one_by_one
from conflayers.chance import Chance
from conflayers.costs import Costs
from conflayers.decoding import decode
from conflayers.draft import Draft
from conflayers.drafters.length import FixedLength
from conflayers.drafters.lookup import Lookup
from conflayers.drafters.siblings import NoSiblings, PublishedSiblings
from conflayers.drafters.subnetwork import Subnetwork
from conflayers.plan import FULL, LOOKUP, ModelIdentity, Plan
from conflayers.round import Method
from conflayers.sampling import Coupled, Sampled, Sampler
from conflayers.selectors.fixed import Fixed
from conflayers.stats import Stats

VOCABULARY = 6
DRAWS = 20_000
PROMPT = (2, 5)
PLAN = Plan.layers([1])
# Fixed seeds make every case the same on every run; these bounds only say how they were judged.
UNSUSPICIOUS, CONDEMNED = 1e-3, 1e-9


def table(seed: int) -> torch.Tensor:
    """Logits of the next token by the last two."""
    return 1.5 * torch.randn(VOCABULARY, VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed))


# The draft is like the target but not very: some tokens are far too likely in it, others far too rare.
TARGET = table(1)
DRAFT = 0.6 * TARGET + 0.8 * table(2)


@dataclass
class TableBody:
    """A model that is a table, and whose drafts are another."""

    layers: int = 4
    context: int = 64
    vocab_size: int = VOCABULARY
    identity: ModelIdentity = field(default_factory=lambda: ModelIdentity("Table", 4, 4, VOCABULARY, "0"))
    trees: bool = True
    steady: bool = False
    text_start: int = 0
    cached: list[int] = field(default_factory=list)
    logits: torch.Tensor = TARGET

    @property
    def length(self) -> int:
        return len(self.cached)

    def reserve(self, capacity: int) -> None:
        self.cached = []

    def prepare(self, plan: Plan) -> None:
        pass

    def release(self) -> None:
        self.cached = []

    def rollback(self, length: int) -> None:
        del self.cached[length:]

    def keep(self, start: int, rows: Sequence[int]) -> None:
        self.cached[start:] = [self.cached[start + row] for row in rows]

    @contextmanager
    def running(self, plan: Plan) -> Iterator[None]:
        self.logits = DRAFT if plan != FULL else TARGET
        yield
        self.logits = TARGET

    def forward(
        self,
        tokens: Sequence[int],
        *,
        parents: Sequence[int] | None = None,
        rows: int | None = None,
        record: int = 0,
    ) -> Pass:
        parents = range(-1, len(tokens) - 1) if parents is None else parents
        before = [*self.cached]
        texts: list[list[int]] = []
        for token, parent in zip(tokens, parents, strict=True):
            texts.append([*(before if parent < 0 else texts[parent]), token])
        self.cached.extend(tokens)
        pairs = torch.tensor([([0, 0, *text])[-2:] for text in texts])
        logits = self.logits[pairs[:, 0], pairs[:, 1]]
        return Pass(logits[-rows:] if rows else logits)

    def chain(self, tokens: Sequence[int], most: int, following: Following) -> None:
        one_by_one(self.forward, tokens, most, following)


class Remembering(LogitsProcessorList):
    """Does nothing twice: what processors say of a text and its logits is always the same."""

    def __init__(self, processors: Sequence[LogitsProcessor]) -> None:
        super().__init__(processors)
        self.known: dict[tuple[float, ...], torch.Tensor] = {}

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        key = (*input_ids[0].tolist(), *scores[0].tolist())
        if key not in self.known:
            self.known[key] = super().__call__(input_ids, scores)
        return self.known[key].clone()


def processors() -> LogitsProcessorList:
    return Remembering(
        [
            RepetitionPenaltyLogitsProcessor(1.4),
            TemperatureLogitsWarper(0.8),
            TopKLogitsWarper(5),
            TopPLogitsWarper(0.95),
        ]
    )


PROCESSORS: dict[str, Callable[[], LogitsProcessorList]] = {"plain": LogitsProcessorList, "processed": processors}
SIBLINGS = {"chain": NoSiblings, "tree": PublishedSiblings}


def exact(processors: LogitsProcessorList) -> dict[tuple[int, ...], float]:
    """The probability of every text of three tokens after the prompt, from the target's table alone."""
    odds: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(3):
        longer = {}
        for text, p in odds.items():
            ids = torch.tensor([[*PROMPT, *text]])
            row = processors(ids, TARGET[ids[0, -2], ids[0, -1]][None].clone()).softmax(-1)[0].double()
            longer.update({(*text, token): p * float(row[token]) for token in range(VOCABULARY)})
        odds = longer
    return odds


def p_value(counts: Counter[tuple[int, ...]], odds: dict[tuple[int, ...], float]) -> float:
    """Of Pearson's chi-square; texts that are expected fewer than 8 times are counted together."""
    draws = counts.total()
    assert set(counts) <= {text for text, p in odds.items() if p > 0}, "a text that the target rules out"
    common = [text for text, p in odds.items() if p * draws >= 8]
    seen = [counts[text] for text in common]
    wanted = [odds[text] * draws for text in common]
    if draws - sum(wanted) >= 8:
        seen.append(draws - sum(seen))
        wanted.append(draws - sum(wanted))
    statistic = sum((s - w) ** 2 / w for s, w in zip(seen, wanted, strict=True))
    half = torch.tensor([(len(seen) - 1) / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def drafts(siblings: str) -> Method:
    """Drafts of two by the other table."""
    return Method("fixed", Subnetwork(FixedLength(2), SIBLINGS[siblings]()), Fixed(PLAN))


def sample(sampler: Callable[[int], Sampler], method: Method, prompt: Sequence[int] = PROMPT) -> tuple[Counter, Stats]:
    """The first three tokens of many texts of four: the first from the prefill, the others drafted."""
    counts: Counter[tuple[int, ...]] = Counter()
    total = Stats()
    body = TableBody()
    for index in range(DRAWS):
        stats = Stats()
        rounds = decode(body, method, prompt, sampler=sampler(index), max_new_tokens=4, end=frozenset(), stats=stats)
        text = tuple(itertools.chain.from_iterable(rounds))
        counts[text[:3]] += 1
        total.num_draft_tokens += stats.num_draft_tokens
        total.num_lookup_tokens += stats.num_lookup_tokens
        total.num_accepted_draft_tokens += stats.num_accepted_draft_tokens
        total.num_accepted_sibling_tokens += stats.num_accepted_sibling_tokens
    return counts, total


def residual(processors: LogitsProcessorList, seed: int = 0) -> Callable[[int], Sampler]:
    """One stream of random numbers for all texts."""
    chance = Chance(torch.Generator().manual_seed(seed))
    return lambda index: Sampled(processors, chance=chance)


def coupled(processors: LogitsProcessorList) -> Callable[[int], Sampler]:
    """A seed for every text."""
    return lambda index: Coupled(processors, seed=index)


@pytest.mark.parametrize(
    ("sampler", "siblings", "processed"),
    [
        (residual, "chain", "plain"),
        (residual, "tree", "processed"),
        pytest.param(residual, "chain", "processed", marks=pytest.mark.slow),
        pytest.param(residual, "tree", "plain", marks=pytest.mark.slow),
        pytest.param(coupled, "chain", "processed", marks=pytest.mark.slow),
        pytest.param(coupled, "tree", "processed", marks=pytest.mark.slow),
    ],
)
def test_the_first_three_tokens_follow_the_targets_distribution(sampler, siblings, processed):
    counts, stats = sample(sampler(PROCESSORS[processed]()), drafts(siblings))

    assert p_value(counts, exact(PROCESSORS[processed]())) > UNSUSPICIOUS
    for position in range(3):
        marginal = Counter({(): 0})
        odds: Counter[tuple[int, ...]] = Counter()
        for text, count in counts.items():
            marginal[(text[position],)] += count
        for text, p in exact(PROCESSORS[processed]()).items():
            odds[(text[position],)] += p
        assert p_value(+marginal, odds) > UNSUSPICIOUS
    # Something was drafted, accepted and rejected, or nothing would have been tested.
    assert 0.2 < stats.num_accepted_draft_tokens / stats.num_draft_tokens < 0.98
    assert (stats.num_accepted_sibling_tokens > DRAWS / 20) == (siblings == "tree")


@pytest.mark.parametrize(
    ("sampler", "plan"),
    [
        (residual, LOOKUP),
        pytest.param(residual, PLAN, marks=pytest.mark.slow),
        pytest.param(coupled, PLAN, marks=pytest.mark.slow),
    ],
)
def test_tokens_that_were_looked_up_leave_the_distribution_as_it_is(sampler, plan):
    """The table knows the last two tokens alone, so a prompt may have anything before them."""
    costs = Costs(4)
    method = Method("lookup", Lookup(costs), Fixed(plan), costs)
    counts, stats = sample(sampler(LogitsProcessorList()), method, (2, 5, 1, 4, 2, 5, 3, 0, 5, 1, *PROMPT))

    assert p_value(counts, exact(LogitsProcessorList())) > UNSUSPICIOUS
    assert stats.num_lookup_tokens > DRAWS / 10
    assert 0 < stats.num_accepted_draft_tokens < stats.num_draft_tokens
    assert (stats.num_draft_tokens > stats.num_lookup_tokens) == (plan == PLAN)


@dataclass(slots=True)
class Biased(Sampled):
    """What the released code of the published methods does: the bonus token comes from the unprocessed logits."""

    def accept(self, prefix: Sequence[int], draft: Draft, logits: torch.Tensor, best: object = None) -> Verdict:
        verdict = Sampled.accept(self, prefix, draft, logits)
        last = verdict.path[-1] if verdict.path else -1
        bonus = self.chance.draw(logits[last + 1].softmax(-1))
        return Verdict(verdict.path, (*verdict.tokens[:-1], bonus))


@dataclass(slots=True)
class Greedier(Sampled):
    """Rejects as it should, but goes on with the target's whole distribution instead of what is left of it."""

    def accept(self, prefix: Sequence[int], draft: Draft, logits: torch.Tensor, best: object = None) -> Verdict:
        verdict = Sampled.accept(self, prefix, draft, logits)
        last = verdict.path[-1] if verdict.path else -1
        p = self.scores_after(prefix, draft, last, logits).softmax(-1)
        return Verdict(verdict.path, (*verdict.tokens[:-1], self.chance.draw(p)))


@pytest.mark.parametrize(
    ("wrong", "siblings"), [(Biased, "chain"), pytest.param(Greedier, "tree", marks=pytest.mark.slow)]
)
def test_a_planted_bias_is_found(wrong, siblings):
    chance = Chance(torch.Generator().manual_seed(0))
    odds = exact(processors())
    sampler = wrong(processors(), chance=chance)
    counts, _ = sample(lambda index: sampler, drafts(siblings))

    possible = Counter({text: count for text, count in counts.items() if odds[text] > 0})
    assert possible.total() < counts.total() or p_value(possible, odds) < CONDEMNED


def test_rejection_sampling_accepts_as_much_as_is_possible():
    """By min(1, p / q), a single draft is accepted with the probability that p and q have in common."""
    p, q = TARGET[1, 1].softmax(-1), DRAFT[1, 1].softmax(-1)
    chance = Chance(torch.Generator().manual_seed(0))
    accepted = 0
    for _ in range(DRAWS):
        draft = Draft.of([chance.draw(q)])
        draft.drawn_from[-1] = q
        accepted += accept_sampled(draft, lambda node: p, chance).accepted

    expected = float(torch.minimum(p, q).sum())
    assert accepted / DRAWS == pytest.approx(expected, abs=4 * (expected * (1 - expected) / DRAWS) ** 0.5)


def test_a_seed_gives_plain_samplings_text_however_it_is_drafted():
    """Coupled noise: what was drafted, how long and how wide, changes no token."""
    body = TableBody()

    def text(seed: int, selector: Fixed, drafter: Subnetwork) -> list[int]:
        sampler = Coupled(processors(), seed=seed)
        rounds = decode(
            body,
            Method("any", drafter, selector),
            PROMPT,
            sampler=sampler,
            max_new_tokens=24,
            end=frozenset(),
            stats=Stats(),
        )
        return list(itertools.chain.from_iterable(rounds))

    texts = set()
    for seed in range(40):
        plain = text(seed, Fixed(None), Subnetwork())
        texts.add(tuple(plain))
        for length, siblings in itertools.product((1, 3, 7), SIBLINGS.values()):
            assert text(seed, Fixed(PLAN), Subnetwork(FixedLength(length), siblings())) == plain
    assert len(texts) == 40
