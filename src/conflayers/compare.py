"""The same prompt by plain decoding, by transformers' own `generate` and by a method, in one process, on one clock."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import torch

from conflayers.api import DEFAULT_NEW_TOKENS, Llm, Result
from conflayers.choice import SETTINGS, split_choice
from conflayers.errors import InputError
from conflayers.plan import Plan
from conflayers.prompts import Prompt
from conflayers.stats import Stats

# Settings that every way of decoding takes.
CHOICES = {"stop_strings", *SETTINGS} - {"do_sample"}
PLAIN, TRANSFORMERS = "vanilla", "hf"
WARM_UP_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Row:
    """How one method did, over all its runs together.

    Attributes:
        method: a method's name; "vanilla" for plain decoding, "hf" for transformers' own `generate`.
        tokens_per_second: new tokens over the whole time, prefill and search included.
        speedup: tokens per second over plain decoding's; None where nothing was compared.
        mean_accepted_tokens: new tokens a pass of the whole model; plain decoding has 1.
        acceptance_rate: accepted over drafted tokens.
        skip_ratio: mean share of the sublayers that draft steps skipped.
        select_seconds: time spent choosing what to skip, search included.
        identical: whether the token ids are plain decoding's; None where nothing was compared.
        new_tokens, seconds: of all runs together.
        first_difference: first position among the new tokens that differs from plain decoding's; None if none does.
    """

    method: str
    tokens_per_second: float
    speedup: float | None
    mean_accepted_tokens: float
    acceptance_rate: float
    skip_ratio: float
    select_seconds: float
    identical: bool | None
    new_tokens: int
    seconds: float
    first_difference: int | None = None


@dataclass(slots=True)
class _Runs:
    """What one method's runs gave: token ids of each, counts and times of all."""

    ids: list[list[int]] = field(default_factory=list)
    total: Stats = field(default_factory=Stats)

    def add(self, ids: list[int], stats: Stats) -> None:
        self.ids.append(ids)
        self.total.include(stats)


def compare(
    llm: Llm,
    prompt: Prompt,
    method: str = "auto",
    *,
    plan: Plan | str | PathLike[str] | None = None,
    max_new_tokens: int | None = None,
    chat: bool | None = None,
    repeat: int = 1,
    first: Result | None = None,
    beside: Sequence[str] = (),
    tell: Callable[[str], None] | None = None,
    **options: Any,
) -> list[Row]:
    """Run the prompt by every way and say how each did: plain decoding, transformers, the method.

    Every run of the method begins with nothing learnt. The runs take turns, the order reversed from one round to the
    next, so that a machine that slows down or speeds up on the way does so for all of them.

    Args:
        plan, max_new_tokens, chat, options: as for `Llm.generate`.
        repeat: runs of each.
        first: the first run of the method, if it has been made already, after a `warm_up`; it counts as one of them.
        beside: other methods to run, with nothing set.
        tell: called with what is about to run.

    Raises:
        InputError: an argument that cannot be honoured.
    """
    if repeat < 1:
        raise InputError(f"repeat must be 1 or more, not {repeat}")
    choice, _ = split_choice({name: value for name, value in options.items() if name != "stop_strings"})
    if choice.sampled:
        raise InputError("a comparison is of greedy decoding: texts drawn at random differ. Leave out the sampling")
    ids = llm.encode(prompt, chat=chat)
    # Whatever is wrong with the arguments is raised before any time is spent.
    llm.stream(ids, method=method, plan=plan, max_new_tokens=max_new_tokens, **options).close()
    count = new_tokens(llm, ids, max_new_tokens)
    if not count:
        raise InputError("a comparison needs room for at least one new token")
    tell = tell or (lambda _: None)
    chosen = {name: value for name, value in options.items() if name in CHOICES}
    ways = {
        method: {"method": method, "plan": plan, **options},
        PLAIN: {"method": PLAIN, **chosen},
        TRANSFORMERS: chosen,
        **{name: {"method": name, **chosen} for name in beside if name != method},
    }
    runs = {way: _Runs() for way in ways}
    if first is not None:
        runs[method].add(first.token_ids, first.stats)
    else:
        tell("warming up")
        warm_up(llm, ids, count)
    for index in range(repeat):
        for way in list(ways)[:: -1 if index % 2 else 1]:
            if len(runs[way].ids) <= index:
                tell(f"{way}, run {index + 1} of {repeat}")
                runs[way].add(*_run(llm, way, ids, count, ways[way]))
    return [_row(way, runs[way], runs[PLAIN]) for way in dict.fromkeys((PLAIN, TRANSFORMERS, *beside, method))]


def single_row(method: str, result: Result) -> Row:
    """The row of one run that was compared with nothing."""
    runs = _Runs()
    runs.add(result.token_ids, result.stats)
    return _row(method, runs, None)


def warm_up(llm: Llm, ids: Sequence[int], count: int) -> None:
    """A few tokens of each, and memory for `count`, so that whoever runs first does not pay for all."""
    llm.body.reserve(len(ids) + count)
    tokens = min(WARM_UP_TOKENS, count)
    llm.generate(ids, method=PLAIN, max_new_tokens=tokens)
    transformers_greedy(llm, ids, tokens)


def new_tokens(llm: Llm, ids: Sequence[int], wanted: int | None) -> int:
    """How many tokens at most follow `ids` where `wanted` are asked for."""
    return min(DEFAULT_NEW_TOKENS, llm.body.context - len(ids)) if wanted is None else wanted


def transformers_greedy(llm: Llm, ids: Sequence[int], count: int, **settings: Any) -> list[int]:
    """The new tokens of transformers' own greedy `generate`, `count` at most, by settings of that name."""
    return transformers_tokens(llm, ids, count, do_sample=False, **settings)


def transformers_tokens(llm: Llm, ids: Sequence[int], count: int, **settings: Any) -> list[int]:
    """The same, greedy or drawn as `settings` say."""
    inputs = torch.tensor([list(ids)], device=llm.model.device)
    padding = llm.model.generation_config.pad_token_id
    outputs = llm.model.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        num_beams=1,
        return_dict_in_generate=False,
        max_new_tokens=count,
        # One sequence is never padded; a token that is named keeps transformers from warning that none is.
        pad_token_id=0 if padding is None else padding,
        **({"tokenizer": llm.tokenizer} if "stop_strings" in settings else {}),
        **settings,
    )
    tokens: list[int] = outputs[0, len(ids) :].tolist()
    return tokens


def first_difference(tokens: Sequence[int], reference: Sequence[int]) -> int | None:
    """The first position at which two texts differ, a missing token included; None if they are the same."""
    if list(tokens) == list(reference):
        return None
    pairs = zip(tokens, reference, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(tokens), len(reference)))


def _run(llm: Llm, way: str, ids: list[int], count: int, arguments: dict[str, Any]) -> tuple[list[int], Stats]:
    if way != TRANSFORMERS:
        result = llm.generate(ids, max_new_tokens=count, **arguments)
        return result.token_ids, result.stats
    begun = time.perf_counter()
    tokens = transformers_greedy(llm, ids, count, **arguments)
    seconds = time.perf_counter() - begun
    return tokens, Stats(new_tokens=len(tokens), num_plain_steps=max(len(tokens) - 1, 0), total_seconds=seconds)


def _row(method: str, runs: _Runs, reference: _Runs | None) -> Row:
    total = runs.total
    speed, plain_speed = total.tokens_per_second, reference.total.tokens_per_second if reference else 0.0
    differences: list[int] = []
    if reference is not None:
        found = [first_difference(ids, reference.ids[0]) for ids in runs.ids]
        differences = [position for position in found if position is not None]
    return Row(
        method=method,
        tokens_per_second=speed,
        speedup=speed / plain_speed if plain_speed else None,
        mean_accepted_tokens=total.mean_acceptance_length,
        acceptance_rate=total.draft_acceptance_rate,
        skip_ratio=total.skip_ratio,
        select_seconds=total.select_seconds,
        identical=None if reference is None else not differences,
        new_tokens=total.new_tokens,
        seconds=total.total_seconds,
        first_difference=min(differences, default=None),
    )
