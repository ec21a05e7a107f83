"""What passes and draft steps take on this machine: measured once for a model, and kept in the cache folder.

A pass over one token and over a few, and draft steps in every precision, with and without sublayers, at several lengths
of context. `costs` begins with it, so that the first rounds of a request are decided by what this machine is like.
"""

import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import transformers

from conflayers.body import graphs, kernels
from conflayers.body.cache_folder import cache_folder, cache_place
from conflayers.body.claim import exclusively
from conflayers.errors import LoadError, OutOfMemoryError
from conflayers.expected import Expected, Savings
from conflayers.files import write_whole
from conflayers.plan import FULL, WHOLE
from conflayers.selectors.forecast import measure

# Tokens before the passes that are timed, and how many these are over, what tells most first.
CONTEXTS = (32, 256, 1024)
ROWS = (1, 8, 2, 4, 16)
# Draft steps are timed in drafts of so many.
STEPS = 4
# Each is timed so many times, and the best counts.
TURNS = 3
# Nothing more is begun after so many seconds.
BUDGET = 1.5
# Of the file. Written by another one, it is measured anew.
FORMAT = 2
# No share of a plain step is as large.
MOST = 1e6
# What reading raises where somebody else wrote, or half of it is there.
DAMAGED = (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError)

Clock = Callable[[], float]


def expectations(body: Any, precisions: Sequence[str] = (), clock: Clock = time.perf_counter) -> tuple[Expected, ...]:
    """What is known of a model on this machine, by context: read if it was measured before.

    Args:
        body: a `PortableBody`.
        precisions: of drafts, besides the whole model's.
        clock: seconds.

    Returns:
        Nothing where a single pass takes too long, or there is no memory for a text.

    Raises:
        InputError: a request runs on the model, so that nothing can be measured.
    """
    name = f"costs/{digest(body, precisions)}.json"
    with suppress(LoadError, OSError, *DAMAGED):
        return _read(cache_place() / name)
    try:
        found = tuple(exclusively(body, _measured(body, precisions, clock)))
    except OutOfMemoryError:
        return ()
    if found:
        # Who has no place to keep it measures it in every process.
        with suppress(LoadError, OSError):
            kept = cache_folder() / name
            kept.parent.mkdir(exist_ok=True)
            write_whole(kept, json.dumps([_written(one) for one in found]))
    return found


def digest(body: Any, precisions: Sequence[str] = ()) -> str:
    """Of everything that times depend on: the model as it is, what drives it, and the machine."""
    model = body.model
    shape = (model.config.to_json_string(), sum(one.numel() for one in model.parameters()), body.identity, body.context)
    named = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else ""
    driven = (body.kind, model.dtype, model.device, named, body.why_not_compiled, sorted(precisions))
    return _hashed(shape, driven, torch.get_num_threads(), _machine())


@functools.cache
def _machine() -> str:
    """What stays the same for as long as a process runs."""
    launched = [path.read_text() for path in sorted(Path(graphs.__path__[0]).glob("*.py"))]
    return _hashed(
        kernels.processor(), kernels.sources(), launched, FORMAT, torch.__version__, transformers.__version__
    )


def _hashed(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@torch.no_grad()
def _measured(body: Any, precisions: Sequence[str], clock: Clock) -> Generator[Expected, None, None]:
    room = max(ROWS)
    contexts = [context for context in CONTEXTS if context + room <= body.context]
    body.reserve(max(contexts, default=0) + 2 * room)
    for precision in precisions:
        body.prepare(FULL.at(precision))
    deadline = clock() + BUDGET
    try:
        for context in contexts:
            begun, before = clock(), body.length
            body.forward([token % body.vocab_size for token in range(before, context)], rows=1)
            # What longer texts take until they are read, which comes before anything can be timed.
            ahead = (clock() - begun) * (4 * context) / (context - before)
            found = _at(body, context, precisions, deadline, clock)
            if found is not None:
                yield found
            if found is None or clock() + ahead > deadline:
                return
    finally:
        body.release()


def _at(body: Any, context: int, precisions: Sequence[str], deadline: float, clock: Clock) -> Expected | None:
    """Behind the text that is cached; None if there is no time for it."""
    best = _best_passes(body, deadline, clock)
    if len(best) < 2 or not best[1] > 0:
        return None
    savings: dict[str, Savings] = {}
    for precision in (WHOLE, *precisions) if body.layers > 2 else ():
        if clock() < deadline:
            savings[precision] = measure(body, 0, best[1], clock, precision, STEPS)
    counts = sorted(best)
    # More rows take no less: what the clock says otherwise is chance.
    shares = [max(best[count] for count in counts[: at + 1]) / best[1] for at in range(len(counts))]
    return Expected(context, tuple(zip(counts, shares, strict=True)), savings)


def _best_passes(body: Any, deadline: float, clock: Clock) -> dict[int, float]:
    """Seconds by rows, of as many of `ROWS` as there is time for."""
    best: dict[int, float] = {}
    length = body.length
    for rows in ROWS * TURNS:
        begun = clock()
        if begun > deadline:
            break
        float(body.forward([token % body.vocab_size for token in range(rows)], rows=rows).logits[0, 0])
        body.rollback(length)
        best[rows] = min(best.get(rows, math.inf), clock() - begun)
    return best


def _written(one: Expected) -> dict[str, Any]:
    savings = {precision: [of.attention, of.mlp, of.full] for precision, of in one.savings.items()}
    return {"context": one.context, "passes": one.passes, "savings": savings}


def _read(path: Path) -> tuple[Expected, ...]:
    """Raise one of `DAMAGED` unless there is what `_written` writes."""
    found = []
    for one in json.loads(path.read_text(encoding="utf-8")):
        passes = tuple((int(rows), _number(share)) for rows, share in one["passes"])
        savings = {str(name): Savings(*map(_number, of)) for name, of in one["savings"].items()}
        found.append(Expected(int(one["context"]), _rising(passes), savings))
    return tuple(found)


def _number(value: float) -> float:
    if not 0 <= value < MOST:
        raise ValueError(value)
    return float(value)


def _rising(passes: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    rows, shares = zip(*passes, strict=True)
    if passes[0] != (1, 1.0) or len(rows) < 2 or list(rows) != sorted(set(rows)) or list(shares) != sorted(shares):
        raise ValueError(passes)
    return tuple(passes)
