"""The round: draft with part of the model, verify with all of it, keep what the whole model would have said."""

import time
from collections.abc import Callable, Iterator, Sequence

from conflayers.body.contract import Body, Pass
from conflayers.draft import MOST_SIBLINGS, Draft
from conflayers.errors import InputError
from conflayers.plan import Plan
from conflayers.round import Method, Round, State, Stop
from conflayers.sampling import Sampler
from conflayers.stats import Stats

Clock = Callable[[], float]


def decode(
    body: Body,
    method: Method,
    prompt: Sequence[int],
    *,
    sampler: Sampler,
    max_new_tokens: int,
    end: frozenset[int],
    stats: Stats,
    stop: Stop | None = None,
    prefill: Callable[[int], Pass] | None = None,
    clock: Clock = time.perf_counter,
) -> Iterator[tuple[int, ...]]:
    """Generate, yielding the tokens that each round adds.

    The tokens are those that plain decoding with the whole model and the same sampler gives: the same ones if greedy,
    equally distributed if sampled. `stats` is filled as the rounds go.

    Args:
        prompt: at least one token; with `max_new_tokens` it fits the model's context.
        max_new_tokens: 1 or more.
        end: tokens after which the text is over.
        stop: asked after every token, with all tokens up to it, whether the text ends there.
        prefill: runs the prompt instead of `body.forward`, for prompts that are more than tokens or partly cached; it
            is given the number of rows to trace, and leaves every prompt token in the cache.
        clock: seconds, for every cost the method decides by; one that goes back is taken to stand still.

    Raises:
        DraftError: the method's drafter proposed what cannot be verified.
        InputError: the method's selector chose something that is no plan.
    """
    selector, clock = method.selector, _forward(clock)
    begun = clock()
    body.reserve(len(prompt) + max_new_tokens + MOST_SIBLINGS)
    method.costs.begin(len(prompt) + max_new_tokens // 2)
    record = selector.wants()
    first = prefill(record) if prefill else body.forward(prompt, rows=1, record=record)
    state = State(body, sampler, list(prompt), len(prompt), max_new_tokens, end, stop)
    kept = state.commit(sampler.accept(prompt, Draft(), first.logits[-1:], first.best and first.best[-1:]))
    stats.prompt_tokens, stats.new_tokens = len(prompt), len(kept)
    stats.prefill_seconds = clock() - begun
    selector.start(state, first.trace)
    stats.total_seconds = stats.first_token_seconds = clock() - begun
    stats.select_seconds = stats.total_seconds - stats.prefill_seconds
    yield kept
    while state.left:
        resumed = clock()
        done, kept = _round(state, method, stats, clock)
        method.measure(done)
        measured = clock()
        selector.learn(state, done)
        ended = clock()
        stats.new_tokens += len(kept)
        stats.select_seconds += ended - measured
        stats.total_seconds += ended - resumed
        yield kept


def _round(state: State, method: Method, stats: Stats, clock: Clock) -> tuple[Round, tuple[int, ...]]:
    begun = clock()
    plan = method.selector.choose()
    if plan is not None and not isinstance(plan, Plan):
        raise InputError(f"{type(method.selector).__name__}.choose() must return a Plan or None, not {plan!r}")
    record = method.selector.wants()
    if plan is not None and plan is not state.prepared:
        # A plan's first step is to take what its others do: costs are learnt from it.
        state.body.prepare(plan)
        state.prepared = plan
    started = clock()
    draft = method.drafter.draft(state, plan) if plan is not None else Draft()
    draft.check(state.body.vocab_size, state.left - 1, trees=state.body.trees)
    drafted = clock()
    # One pass over the last committed token and the draft. Reading the choices waits for the device, so time is true.
    verified = state.body.forward(
        [state.tokens[-1], *draft.tokens],
        parents=None if draft.is_chain else [-1, *(parent + 1 for parent in draft.parents)],
        record=record and len(draft) + 1,
    )
    verdict = state.sampler.accept(state.tokens, draft, verified.logits, verified.best)
    ended = clock()
    # Not timed as verification: the caller's stopping criteria and streamer are asked here.
    kept = state.commit(verdict)
    rows = [0, *(node + 1 for node in verdict.path)]
    done = Round(
        plan=plan,
        drafted=draft.chain,
        accepted=verdict.accepted,
        kept=len(kept),
        draft_seconds=drafted - started,
        verify_seconds=ended - drafted,
        trace=verified.trace.at(rows) if verified.trace is not None else None,
        siblings=len(draft) - draft.chain,
        on_chain=sum(node < draft.chain for node in verdict.path),
        confidences=draft.confidences,
        looked_up=frozenset(draft.looked_up),
    )
    stats.select_seconds += started - begun
    stats.count(state.body.layers, done)
    return done, kept


def _forward(clock: Clock) -> Clock:
    latest = float("-inf")

    def read() -> float:
        nonlocal latest
        latest = max(latest, clock())
        return latest

    return read
