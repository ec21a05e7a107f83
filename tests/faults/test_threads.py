"""Several threads, several Llm objects over one model, and children of a process: never mixed, never stuck."""

import copy
import multiprocessing
import pickle
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from faults.helpers import CHAIN, PROMPT, TREE, VANILLA, assert_as_new, assert_clean, small_model

from conflayers import InputError, Llm


def _many(requests, count=6):
    """What became of the same requests from several threads at once: tokens, or None where refused."""
    gate = threading.Barrier(len(requests))

    def work(request):
        gate.wait(10)
        outcomes = []
        for _ in range(count):
            try:
                outcomes.append(request())
            except InputError:
                outcomes.append(None)
        return outcomes

    with ThreadPoolExecutor(len(requests)) as pool:
        return [outcome for outcomes in pool.map(work, requests) for outcome in outcomes]


@pytest.mark.parametrize("options", [VANILLA, CHAIN, TREE], ids=["vanilla", "chain", "tree"])
def test_threads_get_the_right_text_or_are_refused(llm, fresh, options):
    request = lambda: llm.generate(PROMPT, max_new_tokens=10, **options).token_ids  # noqa: E731

    outcomes = _many([request] * 3)

    assert fresh in outcomes
    assert all(outcome in (None, fresh) for outcome in outcomes)
    assert_as_new(llm, fresh)


def test_threads_with_an_llm_each_over_one_model_are_kept_apart_too(fresh):
    model = small_model()
    llms = [Llm(model) for _ in range(3)]

    outcomes = _many([lambda llm=llm: llm.generate(PROMPT, max_new_tokens=10, **CHAIN).token_ids for llm in llms])

    assert fresh in outcomes
    assert all(outcome in (None, fresh) for outcome in outcomes)
    for llm in llms:
        assert_as_new(llm, fresh)


def test_a_second_llm_over_a_model_that_generates_is_refused_until_it_is_free(reading, fresh):
    second = Llm(reading.model)
    with reading.stream(PROMPT, max_new_tokens=10, **CHAIN) as stream:
        next(stream)
        with pytest.raises(InputError, match="already generating"):
            second.generate(PROMPT, max_new_tokens=4)
    assert_as_new(second, fresh)
    assert_as_new(reading, fresh)


def test_a_stream_may_be_read_and_dropped_by_another_thread(reading, fresh):
    streams = [reading.stream(PROMPT, max_new_tokens=10, **CHAIN)]
    next(streams[0])

    thread = threading.Thread(target=lambda: (next(streams[0]), streams.pop()))
    thread.start()
    thread.join(10)

    assert not thread.is_alive()
    assert_as_new(reading, fresh)


def test_a_copy_of_a_model_that_generates_is_free(reading, fresh):
    with reading.stream(PROMPT, max_new_tokens=10, **CHAIN) as stream:
        next(stream)
        copied = copy.deepcopy(reading.model)
        twin = Llm(copied)
        assert twin.generate(PROMPT, max_new_tokens=10, **CHAIN).token_ids == fresh
    assert_clean(twin)


def _answer(llm, pipe, threads):
    try:
        torch.set_num_threads(threads)
        pipe.send(llm.generate(PROMPT, max_new_tokens=10, **CHAIN).token_ids)
    except InputError as error:
        pipe.send(str(error))


def _in_a_fork(llm, threads=1):
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of every fork of a process with threads, and other tests may have left some.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = context.Process(target=_answer, args=(llm, theirs, threads))
        child.start()
    try:
        assert mine.poll(30), "the child is stuck"
        return mine.recv()
    finally:
        child.join(10)
        child.kill()


def test_a_fork_answers_like_its_parent(llm, fresh):
    assert _in_a_fork(llm) == fresh
    assert_as_new(llm, fresh)


def test_a_fork_with_several_threads_would_hang_and_is_refused(llm, fresh):
    assert "forked after the model was loaded" in _in_a_fork(llm, threads=2)
    assert_as_new(llm, fresh)


@pytest.mark.slow
def test_a_spawned_process_may_use_several_threads(tmp_path):
    """It gets a copy of the Llm by pickle, made in another process."""
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import pickle, torch
torch.set_num_threads(2)
llm = pickle.load(open({str(tmp_path / "llm")!r}, "rb"))
print(llm.generate([1, 2, 3, 4, 5], max_new_tokens=10, method="vanilla").token_ids)
"""
    llm = Llm(small_model())
    (tmp_path / "llm").write_bytes(pickle.dumps(llm))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == str(llm.generate(PROMPT, max_new_tokens=10, **VANILLA).token_ids)


def test_a_fork_of_a_process_whose_model_is_generating_is_refused_and_not_stuck(reading, fresh):
    with reading.stream(PROMPT, max_new_tokens=10, **CHAIN) as stream:
        next(stream)
        assert "already generating" in _in_a_fork(reading)
        assert len("".join(stream)) == 9
    assert stream.result.token_ids == fresh
