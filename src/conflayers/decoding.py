"""The round: draft with part of the model, verify with all of it, keep what the whole model would have said."""

import time
from collections.abc import Callable, Iterator, Sequence

from conflayers.acceptance import Verdict, accept_greedy
from conflayers.body.contract import Body
from conflayers.plan import FULL
from conflayers.round import Method, Round, State
from conflayers.sampling import Greedy
from conflayers.stats import Stats


def decode(
    body: Body,
    method: Method,
    prompt: Sequence[int],
    *,
    sampler: Greedy,
    max_new_tokens: int,
    end: frozenset[int],
    stats: Stats,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[tuple[int, ...]]:
    """Generate, yielding the tokens that each round adds.

    The tokens are those of greedy decoding with the whole model. `stats` is filled as the rounds go.

    Args:
        prompt: at least one token; with `max_new_tokens` it fits the model's context.
        max_new_tokens: 1 or more.
        end: tokens after which the text is over.
        clock: seconds, for every cost the method decides by.
    """
    selector = method.selector
    begun = clock()
    body.reserve(len(prompt) + max_new_tokens)
    first = body.forward(prompt, rows=1, record=selector.wants())
    state = State(body, sampler, list(prompt), len(prompt), max_new_tokens, end)
    kept = state.commit(Verdict(0, tuple(sampler.choose(prompt, (), first.logits))))
    stats.prompt_tokens, stats.new_tokens = len(prompt), len(kept)
    stats.prefill_seconds = clock() - begun
    selector.start(state, first.trace)
    stats.total_seconds = clock() - begun
    stats.select_seconds = stats.total_seconds - stats.prefill_seconds
    yield kept
    while state.left:
        resumed = clock()
        done, kept = _round(state, method, stats, clock)
        decoded = clock()
        selector.learn(state, done)
        ended = clock()
        stats.new_tokens += len(kept)
        stats.select_seconds += ended - decoded
        stats.total_seconds += ended - resumed
        yield kept


def _round(state: State, method: Method, stats: Stats, clock: Callable[[], float]) -> tuple[Round, tuple[int, ...]]:
    begun = clock()
    plan = method.selector.choose()
    record = method.selector.wants()
    started = clock()
    draft = method.drafter.draft(state, plan) if plan is not None else []
    drafted = clock()
    # One pass over the last committed token and the draft. Reading the choices waits for the device, so time is true.
    verified = state.body.forward([state.tokens[-1], *draft], record=record and len(draft) + 1)
    verdict = accept_greedy(draft, state.sampler.choose(state.tokens, draft, verified.logits))
    kept = state.commit(verdict)
    ended = clock()
    stats.select_seconds += started - begun
    stats.draft_seconds += drafted - started
    stats.verify_seconds += ended - drafted
    stats.count(plan or FULL, state.body.layers, len(draft), verdict.accepted)
    done = Round(
        plan=plan,
        drafted=len(draft),
        accepted=verdict.accepted,
        kept=len(kept),
        draft_seconds=drafted - started,
        verify_seconds=ended - drafted,
        trace=verified.trace,
    )
    return done, kept
