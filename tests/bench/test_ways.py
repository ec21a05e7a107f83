"""The ways to decode, on a model with layers that do almost nothing."""

import logging

import pytest
import torch
from planted import planted_model
from transformers.utils import logging as transformers_logging

import conflayers
from conflayers.bench.data import Sample
from conflayers.bench.peers import OLD_CALL
from conflayers.bench.record import PHASES
from conflayers.bench.results import Results
from conflayers.bench.run import Benchmark, samples_of
from conflayers.bench.spec import make_ways
from conflayers.bench.subject import LlmSubject
from conflayers.errors import InputError
from conflayers.plan import Plan

PROMPT, COUNT = [5, 9, 23, 7, 5, 9, 23], 48


@pytest.fixture(scope="module")
def llm():
    return conflayers.Llm(planted_model([2, 3, 4], layers=8))


@pytest.fixture(scope="module")
def plain(llm):
    return llm.generate(PROMPT, method="vanilla", max_new_tokens=COUNT).token_ids


@pytest.mark.parametrize(
    "name", ["vanilla", "hf", "hf-lookup", "hf-early-exit", "conflayers", "uniform:skip_ratio=0.3", "swift"]
)
def test_the_text_is_plain_decodings_and_the_times_add_up(llm, plain, name):
    (way,) = make_ways(llm, [name], {}, False)
    answer = way.run(PROMPT, COUNT)
    assert answer.token_ids == plain
    assert 0 < answer.first_token_seconds < answer.seconds
    stats = answer.stats
    assert stats.new_tokens == COUNT
    assert stats.total_seconds <= answer.seconds
    assert sum(getattr(stats, f"{phase}_seconds") for phase in PHASES[:-1]) <= stats.total_seconds


def test_passes_of_transformers_are_counted(llm, plain):
    hf, lookup = make_ways(llm, ["hf", "hf-lookup"], {}, False)
    assert hf.run(PROMPT, COUNT).stats.mean_acceptance_length == 1.0
    stats = lookup.run(PROMPT, COUNT).stats
    # Every pass brings one token, and what it found before.
    assert 1 + stats.num_plain_steps + stats.num_accepted_draft_tokens == COUNT
    assert not llm.model._forward_pre_hooks


def test_what_transformers_warns_itself_of_is_kept_from_who_benchmarks(llm):
    said, logger = [], logging.getLogger("transformers.generation.utils")
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger.addHandler(handler)
    transformers_logging.warning_once.cache_clear()
    try:
        (way,) = make_ways(llm, ["hf-early-exit"], {}, False)
        way.run(PROMPT, COUNT)
        assert said == []
        logger.warning(OLD_CALL)
        assert said == [OLD_CALL]
    finally:
        logger.removeHandler(handler)


def test_a_task_learns_over_requests_unless_it_is_to_be_fresh(llm):
    for fresh in (False, True):
        (way,) = make_ways(llm, ["swift:context_window=8:max_iterations=40"], {}, fresh)
        way.run(PROMPT, COUNT)
        first = way.task
        way.run(PROMPT, COUNT)
        assert (way.task is first) is not fresh
        way.begin()
        assert way.task is not first


def test_sampled_texts_are_compared_only_with_a_seed(llm):
    seeded = make_ways(llm, ["vanilla", "uniform", "hf"], {"temperature": 0.8, "seed": 3}, False)
    assert [way.same_text for way in seeded] == [True, True, False]
    assert seeded[0].run(PROMPT, COUNT).token_ids == seeded[1].run(PROMPT, COUNT).token_ids
    assert seeded[2].run(PROMPT, COUNT).token_ids == seeded[2].run(PROMPT, COUNT).token_ids
    unseeded = make_ways(llm, ["vanilla", "uniform", "hf"], {"temperature": 0.8}, False)
    assert not any(way.same_text for way in unseeded)


def test_a_plan_is_a_row(llm, plain, tmp_path):
    llm.save_plan(tmp_path / "plan.json", Plan.layers([2, 3, 4]))
    (way,) = make_ways(llm, [f"fixed:plan={tmp_path / 'plan.json'}:draft_length=4:tree=none"], {}, False)
    answer = way.run(PROMPT, COUNT)
    assert answer.token_ids == plain
    assert answer.plan == str(Plan.layers([2, 3, 4]))
    assert answer.stats.draft_acceptance_rate > 0.9


def test_a_model_without_a_tokenizer_is_refused(llm):
    with pytest.raises(InputError, match="came without a tokenizer"):
        LlmSubject(llm)


def test_the_gap_of_a_difference_is_the_whole_models():
    llm = conflayers.load("tests/zoo/dropout-16", dtype="float32")
    subject = LlmSubject(llm)
    ids = subject.encode(["import "])
    best = llm.generate(ids, method="vanilla", max_new_tokens=1).token_ids[0]
    with torch.no_grad():
        logits = llm.model(torch.tensor([ids])).logits[0, -1]
    others = [best, 3, 700]
    assert [subject.gap(ids, best, other) for other in others] == pytest.approx(
        [float(logits[best] - logits[other]) for other in others], abs=1e-4
    )


def test_everything_together_on_a_trained_model(tmp_path):
    llm = conflayers.load("tests/zoo/dropout-16", dtype="float32")
    samples = [Sample("a", "own", "code", ("def read(self, ", "    return "))]
    names = ["vanilla", "hf", "uniform"]
    settings = {"max_new_tokens": 16, "repeat": 1, "turns": True, "methods": names}
    results = Results(settings, {}, samples_of(samples))
    done = Benchmark(LlmSubject(llm), samples, make_ways(llm, names, {}, False), results, tmp_path).run()
    assert [row["identical"] for row in done.rows] == [True] * 3
    assert done.rows[0]["new_tokens"] == 32
    assert done.rows[2]["skip_ratio"] > 0
    assert Results.load(tmp_path).rows == done.rows
