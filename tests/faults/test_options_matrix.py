"""Every way to draft with every way to choose tokens: the tokens are those of plain decoding with the same settings."""

import pytest
import torch
from faults.helpers import PLAN, PROMPT, greedy, small_model
from transformers import LogitsProcessor, LogitsProcessorList

from conflayers import InputError, Llm

TOKENS = 16
LENGTHS = {
    "gain": {"draft_length": "gain"},
    "confidence": {"draft_length": "confidence", "confidence_stop": 0.05},
    "adaptive": {"draft_length": "adaptive", "confidence_stop": 0.05},
    "fixed": {"draft_length": 3},
}
TREES = ("gain", "paper", "none")
METHODS = {
    "vanilla": {"method": "vanilla"},
    **{
        f"{length} {tree}": {"method": "fixed", "plan": PLAN, **options, "tree": tree}
        for length, options in LENGTHS.items()
        for tree in TREES
    },
    "search": {"method": "conflayers", "interval": 2, "context_window": 4, "fallback": False, "draft_length": 3},
    "published search": {"method": "conflayers", "variant": "paper", "interval": 2, "context_window": 4},
    "auto": {"method": "auto", "interval": 2, "context_window": 4, "fallback": False},
    "draft and verify": {"method": "draft-verify", "plan": PLAN, "confidence_stop": 0.05},
    "kept plan": {"method": "conflayers", "plan": PLAN, "draft_length": 3},
}


# Every length and every tree, but not each with each, and everything else.
QUICK = {
    "vanilla",
    "gain gain",
    "confidence paper",
    "adaptive none",
    "fixed paper",
    "search",
    "published search",
    "auto",
}
each_method = pytest.mark.parametrize(
    "method", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in METHODS]
)


class Bias(LogitsProcessor):
    """Makes a token likelier the longer ago it was said, so that the true prefix matters at every place."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        scores[:, (int(input_ids[0].sum()) * 7 + input_ids.shape[1]) % scores.shape[1]] += 6.0
        return scores


END = [75, 0]
CHOICES = {
    "repetition penalty": {"repetition_penalty": 1.7},
    "nothing twice": {"no_repeat_ngram_size": 1},
    "bad words": {"bad_words_ids": [[2], [49, 101], [75], [127]]},
    "least length": {"min_new_tokens": 10, "eos_token_id": END},
    "an end": {"eos_token_id": END},
    "a bias": {"logits_processor": LogitsProcessorList([Bias()])},
    "temperature 0": {"temperature": 0},
    "everything": {
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 3,
        "bad_words_ids": [[49]],
        "min_new_tokens": 4,
        "eos_token_id": END,
        "logits_processor": LogitsProcessorList([Bias()]),
    },
}
SAMPLING = {
    "cold": {"temperature": 1e-9},
    "warm": {"temperature": 0.8},
    "hot": {"temperature": 100.0},
    "top k": {"top_k": 4},
    "top p": {"top_p": 0.7, "temperature": 1.5},
    "min p": {"min_p": 0.05},
    "typical": {"typical_p": 0.6},
    "all": {"temperature": 1.3, "top_k": 30, "top_p": 0.9, "min_p": 0.01, **CHOICES["everything"]},
}


@pytest.fixture(scope="module")
def references(llm):
    """What transformers' `generate` says for every choice."""
    settings = {name: {k: v for k, v in choice.items() if k != "temperature"} for name, choice in CHOICES.items()}
    return {name: greedy(llm.model, TOKENS, **choice) for name, choice in settings.items()}


def test_the_choices_have_something_to_get_wrong(llm, references):
    plain = greedy(llm.model, TOKENS)
    assert {name for name, tokens in references.items() if tokens == plain} == {"temperature 0"}
    assert len(references["an end"]) < len(references["least length"]) < TOKENS


@pytest.mark.parametrize("choice", CHOICES)
@each_method
def test_greedy_tokens_are_those_of_transformers(llm, references, method, choice):
    result = llm.generate(PROMPT, max_new_tokens=TOKENS, **METHODS[method], **CHOICES[choice])

    assert result.token_ids == references[choice]
    if method != "kept plan":  # which falls back to plain decoding where drafts do not pay
        assert (result.stats.num_spec_steps > 0) == (method != "vanilla")


@each_method
@pytest.mark.parametrize(("choice", "seed"), [*zip(SAMPLING, (0, 2**62, -5, 1, 2, 3, 4, 5), strict=True)])
def test_a_seed_gives_one_text_by_every_method(llm, method, choice, seed):
    plain, drafted = (
        llm.generate(PROMPT, max_new_tokens=10, seed=seed, **how, **SAMPLING[choice])
        for how in (METHODS["vanilla"], METHODS[method])
    )
    assert drafted.token_ids == plain.token_ids


def test_seeds_differ_and_repeat(llm):
    texts = [llm.generate(PROMPT, max_new_tokens=12, seed=seed, temperature=1.0).token_ids for seed in (1, 1, 2, 3)]
    assert texts[0] == texts[1]
    assert len({tuple(text) for text in texts}) == 3


@each_method
def test_the_coldest_sampling_is_greedy(llm, method):
    plain = greedy(llm.model, 12)
    for how in ({"acceptance": "residual"}, {"acceptance": "coupled"}):
        assert llm.generate(PROMPT, max_new_tokens=12, temperature=1e-9, **how, **METHODS[method]).token_ids == plain


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ({"bad_words_ids": [[128]]}, "bad_words_ids has 128, but the model's ids are whole numbers from 0 to 127"),
        ({"bad_words_ids": [[3, -1]]}, "bad_words_ids has -1"),
        ({"bad_words_ids": [[True]]}, "bad_words_ids has True"),
        ({"bad_words_ids": []}, "bad_words_ids"),
        ({"eos_token_id": 128}, "eos_token_id has 128"),
        ({"eos_token_id": [5, -2]}, "eos_token_id has -2"),
        ({"eos_token_id": "5"}, "eos_token_id has '5'"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty must be"),
        ({"top_p": float("nan")}, "top_p must be"),
        ({"min_new_tokens": -1}, "min_new_tokens must be"),
        ({"no_repeat_ngram_size": 1.0}, "no_repeat_ngram_size must be"),
        ({"logits_processor": "bias"}, "logits_processor must be a list of transformers' processors, not 'bias'"),
        ({"logits_processor": [5]}, "logits_processor must be"),
    ],
    ids=str,
)
def test_settings_that_no_row_of_scores_can_honour_are_named(llm, option, complaint):
    with pytest.raises(InputError, match=complaint):
        llm.generate(PROMPT, max_new_tokens=4, **option)


def test_ids_between_tokenizer_and_scores_are_the_models_to_use(reading):
    """The tokenizer knows ids below 257, the scores are wider: what is beyond has no text, and may be ruled out."""
    model = small_model()
    model.resize_token_embeddings(300)
    with torch.no_grad():
        model.lm_head.weight[290:] *= 30
    wide = Llm(model, reading.tokenizer)
    beyond = [[token] for token in range(257, 300)]

    free = wide.generate(PROMPT, max_new_tokens=12, method="fixed", plan=PLAN)
    ruled = wide.generate(PROMPT, max_new_tokens=12, method="fixed", plan=PLAN, bad_words_ids=beyond)

    assert free.token_ids == greedy(model, 12)
    assert any(token >= 257 for token in free.token_ids)
    assert ruled.token_ids == greedy(model, 12, bad_words_ids=beyond)
    assert max(ruled.token_ids) < 257
    assert free.text == reading.tokenizer.decode(free.token_ids, skip_special_tokens=True)
    with pytest.raises(InputError, match="bad_words_ids has 300"):
        wide.generate(PROMPT, max_new_tokens=4, bad_words_ids=[[300]])
