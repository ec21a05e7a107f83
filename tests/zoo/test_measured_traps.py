"""What the authors' code of ConfLayers and SWIFT loses on models as small as these, by passes that take known times."""

from zoo.card import NEW_TOKENS, PROMPTS, prompts
from zoo.steady import steadily
from zoo.test_zoo import model

from conflayers.methods import build_method
from conflayers.stats import Stats


def totals(method: str, **options: object) -> list[Stats]:
    """What one task did with the held-out prompts, the times those of `steady.py`."""
    llm = model("dropout-16")
    task = build_method(method, llm.body.layers, None, **options)
    with steadily(llm) as clock:
        if method == "conflayers":
            task.selector.clock = clock
        return [llm.generate(prompt, task=task, max_new_tokens=NEW_TOKENS).stats for prompt in prompts()[:PROMPTS]]


def search_share(stats: list[Stats]) -> float:
    return sum(one.select_seconds for one in stats) / sum(one.total_seconds for one in stats)


def test_passes_of_a_search_count_as_its_time():
    # No candidate is good enough, so that the search goes on.
    window = {"context_window": 32, "bayes_interval": 0, "max_score": 1.0}
    swift = search_share(totals("swift", **window))

    # A candidate after every round behind the window, each a pass over it: their own code took 42 to 57%.
    assert 0.1 < swift < 0.6
    assert search_share(totals("swift", **window, max_iterations=1)) < swift / 10
    assert search_share(totals("conflayers")) < swift / 4


def test_a_stop_at_a_confidence_of_08_leaves_drafts_about_one_token_deep():
    depth = {
        length: sum(one.num_draft_tokens for one in found) / sum(one.num_spec_steps for one in found)
        for length in ("confidence", "gain")
        for found in [totals("uniform", draft_length=length, tree="none", skip_ratio=0.8)]
    }

    assert depth["confidence"] < 1.6
    assert depth["gain"] > depth["confidence"] + 0.15
