"""What a result says of itself: vLLM's names, counts that add up, and times that make up the whole."""

import json
import time

import pytest
from faults.helpers import CHAIN, PROMPT, TREE, VANILLA

SEARCH = {"method": "conflayers", "interval": 2, "context_window": 4, "fallback": False, "draft_length": 3}
PUBLISHED = {"method": "conflayers", "variant": "paper", "interval": 2, "context_window": 4}
METHODS = {"vanilla": VANILLA, "chain": CHAIN, "tree": TREE, "search": SEARCH, "published": PUBLISHED}
SAMPLING = [{}, {"temperature": 1.0}, {"temperature": 1.0, "seed": 1}]
PHASES = ("prefill_seconds", "draft_seconds", "verify_seconds", "select_seconds")


@pytest.mark.parametrize("sampling", SAMPLING, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_counts_add_up(llm, method, sampling):
    stats = llm.generate(PROMPT, max_new_tokens=40, **METHODS[method], **sampling).stats

    assert stats.new_tokens == 40
    assert stats.new_tokens == 1 + stats.num_plain_steps + stats.num_spec_steps + stats.num_accepted_draft_tokens
    assert stats.num_spec_steps == sum(stats.acceptance_histogram.values())
    assert stats.num_accepted_draft_tokens == sum(n * times for n, times in stats.acceptance_histogram.items())
    assert sum(stats.num_accepted_tokens_per_pos) == stats.num_accepted_draft_tokens
    assert stats.num_accepted_sibling_tokens <= min(stats.num_accepted_draft_tokens, stats.num_sibling_tokens)
    passes = stats.num_plain_steps + stats.num_spec_steps
    assert stats.mean_acceptance_length == pytest.approx((stats.new_tokens - 1) / passes)
    assert 0 <= stats.draft_acceptance_rate <= 1
    assert (stats.num_draft_tokens > 0) == (method != "vanilla")
    if method in ("vanilla", "chain", "tree"):
        assert (stats.num_sibling_tokens > 0) == (method == "tree")


@pytest.mark.parametrize("method", METHODS)
def test_phases_make_up_the_whole_time(llm, method):
    stats = llm.generate(PROMPT, max_new_tokens=40, **METHODS[method]).stats
    phases = {name: getattr(stats, name) for name in PHASES}

    assert all(seconds >= 0 for seconds in phases.values())
    assert phases["prefill_seconds"] > 0
    assert phases["verify_seconds"] > 0
    assert (phases["draft_seconds"] > 1e-3) == (method != "vanilla")
    # What is between the phases is some bookkeeping.
    assert 0.8 * stats.total_seconds < sum(phases.values()) <= stats.total_seconds * (1 + 1e-9)


def test_time_that_the_reader_takes_is_not_counted(reading):
    with reading.stream(PROMPT, max_new_tokens=5, **VANILLA) as stream:
        for _ in stream:
            time.sleep(0.05)
    assert stream.result.stats.total_seconds < 0.2


def test_statistics_are_plain_values_under_vllms_names(llm):
    stats = llm.generate(PROMPT, max_new_tokens=40, **TREE).stats.as_dict()

    assert json.loads(json.dumps(stats)) == stats
    names = {"num_draft_tokens", "num_accepted_draft_tokens", "mean_acceptance_length", "acceptance_histogram"}
    assert names | {"num_spec_steps", "num_accepted_tokens_per_pos", "draft_acceptance_rate"} <= stats.keys()
    assert set(PHASES) | {"total_seconds"} <= stats.keys()
    assert sum(stats["acceptance_histogram"].values()) == stats["num_spec_steps"] > 0
