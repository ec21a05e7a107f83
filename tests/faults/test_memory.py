"""Ten thousand requests leave no more behind than one."""

import gc
import os
import threading
import tracemalloc
from pathlib import Path

import pytest
import torch
from doubles import FakeBody, expected, run
from faults.helpers import CHAIN, PROMPT, TREE, VANILLA, assert_clean, small_model

from conflayers import Llm
from conflayers.methods import build_method
from conflayers.plan import Plan

METHODS = {
    "vanilla": lambda: build_method("vanilla", 8),
    "chain": lambda: build_method("fixed", 8, Plan.layers([1, 3]), draft_length=3),
    "gain": lambda: build_method("fixed", 8, Plan.layers([1, 3])),
    "search": lambda: build_method("conflayers", 8, interval=2, context_window=4, fallback=False),
}


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def left_behind(request, requests: int) -> int:
    """Objects that so many requests leave behind, once as many have been made."""
    levels = []
    for _ in range(2):
        for _ in range(requests):
            request()
        gc.collect()
        levels.append(len(gc.get_objects()))
    return levels[1] - levels[0]


@pytest.mark.parametrize("method", METHODS)
def test_requests_of_their_own_leave_nothing(method):
    body = FakeBody()

    def request():
        tokens, _ = run(body, METHODS[method](), 4)
        assert tokens == expected(4)
        body.rows.clear()

    assert left_behind(request, 100) < 10


@pytest.mark.parametrize("method", METHODS)
def test_what_a_task_remembers_is_bounded(method):
    body, task = FakeBody(), METHODS[method]()

    def request():
        run(body, task, 4)
        body.rows.clear()

    assert left_behind(request, 200) < 10


@pytest.mark.parametrize(
    "options",
    [VANILLA, CHAIN, TREE, {**CHAIN, "temperature": 1.0, "seed": 1}],
    ids=["plain", "chain", "tree", "sampled"],
)
def test_real_requests_leave_nothing(reading, options):
    threads, files = threading.active_count(), descriptors()

    left = left_behind(lambda: reading.generate(PROMPT, max_new_tokens=5, stop_strings="never", **options), 15)

    assert left < 10
    assert (threading.active_count(), descriptors()) == (threads, files)


@pytest.mark.parametrize("end", ["closed", "dropped", "raised"])
def test_requests_that_end_early_leave_nothing(reading, end):
    def fail(*_):
        raise LookupError

    def request():
        stream = reading.stream(PROMPT, max_new_tokens=20, **CHAIN)
        next(stream)
        if end == "closed":
            stream.close()
        elif end == "raised":
            hook = reading.model.model.layers[1].register_forward_pre_hook(fail)
            with pytest.raises(LookupError):
                list(stream)
            hook.remove()

    assert left_behind(request, 15) < 10
    assert_clean(reading)


@pytest.mark.slow
def test_ten_thousand_requests():
    llm = Llm(small_model(layers=3, hidden=16))
    threads, files = threading.active_count(), descriptors()
    options = [VANILLA, {"method": "fixed", "plan": Plan.layers([1]), "draft_length": 2}]

    levels, resident_levels = [], []
    tracemalloc.start()
    try:
        for _ in range(5):
            for number in range(2000):
                llm.generate(PROMPT[: 1 + number % 5], max_new_tokens=3, **options[number % 2])
            gc.collect()
            levels.append(tracemalloc.get_traced_memory()[0])
            resident_levels.append(resident())
    finally:
        tracemalloc.stop()

    # Python's own pools fill during the first thousands.
    assert (levels[-1] - levels[1]) / 6000 < 8
    assert resident_levels[-1] - resident_levels[1] < 2**22
    assert (threading.active_count(), descriptors()) == (threads, files)
    assert_clean(llm)


def test_the_cache_is_given_back_with_its_llm():
    llm = Llm(small_model())
    llm.generate(PROMPT, max_new_tokens=4, **CHAIN)
    cache = llm.body.cache
    assert any(layer.is_initialized for layer in cache.layers)

    llm.body.release()

    assert not any(layer.is_initialized for layer in llm.body.cache.layers)
    assert isinstance(cache.layers[0].keys, torch.Tensor)
