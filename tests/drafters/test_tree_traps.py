"""Mistakes of the released code of ConfLayers and of SWIFT about trees; the others are in selectors/test_traps.py."""

import torch
from faults.helpers import TREE, scripted, small_model
from hypothesis import given
from hypothesis import strategies as st
from transformers import Qwen2Config, Qwen2ForCausalLM

from conflayers import Llm
from conflayers.acceptance import accept_greedy
from conflayers.body import trees
from conflayers.draft import ROOT, Draft

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


def qwen2(seed: int) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False}
    config = Qwen2Config(**sizes, **heads, initializer_range=0.4, bos_token_id=None, eos_token_id=None)
    return Qwen2ForCausalLM(config).eval()


def test_siblings_do_not_see_each_other_on_qwen2_models(monkeypatch):
    models = [Llm(qwen2(seed)) for seed in range(6)]
    ids = torch.tensor([PROMPT])
    plain = [llm.model.generate(ids, do_sample=False, max_new_tokens=40)[0, len(PROMPT) :].tolist() for llm in models]

    def drafted():
        return [llm.generate(PROMPT, max_new_tokens=40, **TREE) for llm in models]

    results = drafted()
    assert [result.token_ids for result in results] == plain
    assert sum(result.stats.num_accepted_sibling_tokens for result in results) > 6
    # The mistake itself, a causal mask over the flattened tree, changes what these models say.
    monkeypatch.setattr(trees, "ancestry", lambda parents: torch.ones(2 * [len(parents)]).tril().bool())
    assert sum(result.token_ids != text for result, text in zip(drafted(), plain, strict=True)) > 3


def test_the_end_of_a_short_path_is_not_a_drafted_token_zero():
    draft = Draft.of([5, 6, 1])
    draft.add_sibling(0, 7)
    target = {ROOT: 7, 0: 6, 1: 1, 2: 2, 3: 0}

    verdict = accept_greedy(draft, target.__getitem__)

    # Behind 7 nothing was drafted: the 0 that follows it is the bonus token, and nothing follows that.
    assert (verdict.path, verdict.tokens) == ((3,), (7, 0))


@given(
    chain=st.lists(st.integers(0, 2), min_size=1, max_size=5),
    beside=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), max_size=6, unique=True),
    target=st.lists(st.integers(0, 2), min_size=12, max_size=12),
)
def test_of_all_paths_the_longest_that_the_target_says_is_taken_and_no_more(chain, beside, target):
    draft = Draft.of(chain)
    for node, token in beside:
        if node < len(chain) and token != chain[node]:
            draft.add_sibling(node, token)

    verdict = accept_greedy(draft, lambda node: target[node + 1])

    paths = [[], *(draft.path(node) for node in range(len(draft)))]
    said = [p for p in paths if all(target[draft.parents[n] + 1] == draft.tokens[n] for n in p)]
    longest = max(said, key=len)
    assert list(verdict.path) == list(longest)
    assert list(verdict.tokens) == [*(draft.tokens[n] for n in longest), target[(longest[-1] if longest else ROOT) + 1]]


def test_a_text_of_zeros_is_what_the_target_says():
    script = [0, 5, 0, 0, 0, 7, 0, 0, 9, 0] * 4
    # Where the chain errs, its sibling is right, and its path ends there.
    llm = scripted(Llm(small_model()), script, agrees=lambda plan, position: position % 3 != 0, trees=True)

    result = llm.generate([1], max_new_tokens=len(script), **TREE)

    assert result.token_ids == script
    assert result.stats.num_accepted_sibling_tokens > 5


def test_the_acceptance_rate_is_the_chains_and_siblings_are_counted_apart():
    llm = scripted(Llm(small_model()), [5, 6, 7] * 7, agrees=lambda plan, position: False, trees=True)

    stats = llm.generate([1], max_new_tokens=21, **{**TREE, "draft_length": 1}).stats

    # Every round the one drafted token is wrong and a sibling is right: counted together that would be a rate of 1.
    assert stats.num_spec_steps == stats.num_draft_tokens == stats.num_accepted_sibling_tokens == 10
    assert stats.draft_acceptance_rate == 0.0
    assert stats.mean_acceptance_length == 2.0
    assert stats.num_sibling_tokens > stats.num_draft_tokens
