"""Ctrl-C at any moment leaves nothing behind.

The interrupt comes from a trace function, so that every place is reached and none by chance: at the entry of any Python
function, where the interpreter looks for signals, and before any line of this library's own.
"""

import inspect
import linecache
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults.helpers import CHAIN, PLAN, PROMPT, TREE, assert_as_new, assert_clean

import conflayers
from conflayers import Llm, Plan

HOME = str(Path(conflayers.__file__).parent)
# Where models are changed and changed back, and where nothing else happens than that.
CRITICAL = ("contextlib.py", "_contextlib.py", "grad_mode.py", "claim.py", "switch.py", "portable.py", "decoding.py")
# Every way of leaving something switched off: whole layers, one sublayer of each kind, and passes that are recorded.
REQUESTS = {
    "chain": CHAIN,
    "tree": {**TREE, "plan": Plan(frozenset({1, 3}), frozenset({1}))},
    "search": {"method": "conflayers", "interval": 1, "context_window": 4, "fallback": False, "draft_length": 2},
}
# A search looks at nothing before there is some text.
NEW_TOKENS = {"search": 22}


class Interrupt:
    """Counts the moments at which Ctrl-C may be noticed and raises at one of them.

    Attributes:
        at: the number of that moment; 0 for none.
        only: file names whose moments count; all if empty.
    """

    def __init__(self, at: int = 0, only: tuple[str, ...] = ()) -> None:
        self.at, self.only, self.moments = at, only, 0

    def __call__(self, frame, event, argument):
        path = frame.f_code.co_filename
        generates = frame.f_code.co_flags & inspect.CO_GENERATOR
        if generates and (frame.f_code.co_name == "<genexpr>" or not path.startswith(HOME)):
            return None  # generators are dropped half-read, and Python ignores what is raised while it closes them
        if self._counts(frame, event):
            self.moments += 1
            if self.moments == self.at:
                raise KeyboardInterrupt
        return self if path.startswith(HOME) else None

    def _counts(self, frame, event) -> bool:
        path = frame.f_code.co_filename
        if self.only and not path.endswith(self.only):
            return False
        # Nothing runs on a line that only opens a block, so that no signal is noticed there either.
        opens = linecache.getline(path, frame.f_lineno).strip() in ("try:", "finally:")
        return event == "call" or (event == "line" and not opens)


@contextmanager
def tracing(interrupt: Interrupt) -> Iterator[None]:
    before = sys.gettrace()
    sys.settrace(interrupt)
    try:
        yield
    finally:
        sys.settrace(before)


def interrupted(llm: Llm, request: str, interrupt: Interrupt) -> bool:
    """Whether the request met its interrupt; the model is checked where it did."""
    try:
        with tracing(interrupt):
            llm.generate(PROMPT, max_new_tokens=NEW_TOKENS.get(request, 6), **REQUESTS[request])
    except KeyboardInterrupt:
        # The traceback is still held here, and all its frames with it, as an interactive session holds it.
        assert_clean(llm)
        return True
    return False


@pytest.mark.parametrize("only", [(), CRITICAL], ids=["anywhere", "where models are changed"])
@pytest.mark.parametrize("request_", REQUESTS)
def test_an_interrupt_at_any_moment(llm, fresh, request_, only):
    whole = Interrupt(only=only)
    assert not interrupted(llm, request_, whole)
    draw = random.Random(f"{request_} {only}")

    met = [interrupted(llm, request_, Interrupt(draw.randrange(1, whole.moments), only)) for _ in range(40)]

    # What a search does depends on measured times, so that a request may be over before its interrupt.
    assert sum(met) > 30
    assert_as_new(llm, fresh)


@pytest.mark.slow
@pytest.mark.parametrize("request_", REQUESTS)
def test_an_interrupt_at_every_few_moments_where_models_are_changed(llm, fresh, request_):
    whole = Interrupt(only=CRITICAL)
    assert not interrupted(llm, request_, whole)

    moments = range(1, whole.moments, max(3, whole.moments // 300))
    met = [interrupted(llm, request_, Interrupt(at, CRITICAL)) for at in moments]

    assert sum(met) > 0.75 * len(moments)
    assert_as_new(llm, fresh)


def test_a_task_serves_on_after_an_interrupt(llm, fresh):
    task = llm.task(**CHAIN)
    for at in (50, 500, 2000):
        with pytest.raises(KeyboardInterrupt), tracing(Interrupt(at)):
            llm.generate(PROMPT, task=task, max_new_tokens=10)

    assert llm.generate(PROMPT, task=task, max_new_tokens=10).token_ids == fresh
    assert task.selector.plan == PLAN
