"""A real pretrained model on real prompts: the tokens are those of transformers' own greedy decoding."""

import pytest
import torch

from conflayers import Llm, Plan, load

NEW_TOKENS = 48
PROMPTS = [
    "Explain in a few sentences why the sky is blue.",
    "Write a Python function that returns the n-th Fibonacci number.",
    "Translate to French: The weather is nice today, and we are going to the beach.",
]
# Layers that this model can spare better than most, so that drafts are accepted now and then.
SPARED = Plan.layers([10, 14, 18, 22])


@pytest.fixture(scope="module")
def llm() -> Llm:
    return load("smollm2", dtype="float32")


@pytest.fixture(scope="module")
def reference(llm) -> dict[str, list[int]]:
    answers = {}
    for prompt in PROMPTS:
        ids = torch.tensor([llm.encode(prompt)])
        mask = torch.ones_like(ids)
        output = llm.model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW_TOKENS)
        answers[prompt] = output[0, ids.shape[1] :].tolist()
    return answers


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(
    "arguments",
    [
        {"method": "vanilla"},
        {"method": "fixed", "plan": SPARED, "confidence_stop": 0.3, "max_draft_tokens": 6},
        {"method": "conflayers"},
        {"method": "conflayers", "fallback": False, "interval": 6, "confidence_stop": 0.4},
        {"method": "conflayers", "variant": "paper", "context_window": 16, "interval": 6, "confidence_stop": 0.4},
    ],
    ids=["vanilla", "fixed", "conflayers", "conflayers always drafting", "paper"],
)
def test_greedy_tokens_are_those_of_transformers(llm, reference, prompt, arguments):
    result = llm.generate(prompt, max_new_tokens=NEW_TOKENS, **arguments)

    assert result.token_ids == reference[prompt]
    assert result.text == llm.tokenizer.decode(reference[prompt], skip_special_tokens=True)


def test_drafts_are_accepted_and_rejected_on_the_way(llm, reference):
    arguments = {"method": "fixed", "plan": SPARED, "confidence_stop": 0.3, "max_draft_tokens": 6}
    stats = [llm.generate(prompt, max_new_tokens=NEW_TOKENS, **arguments).stats for prompt in PROMPTS]

    accepted, drafted = (sum(getattr(s, n) for s in stats) for n in ("num_accepted_draft_tokens", "num_draft_tokens"))
    assert 0 < accepted < drafted


def test_the_stream_is_the_text(llm, reference):
    stream = llm.stream(PROMPTS[0], max_new_tokens=NEW_TOKENS)
    pieces = list(stream)

    assert len(pieces) > 10
    assert "".join(pieces) == stream.result.text


def test_a_stream_closed_early_or_dropped_leaves_the_model_ready(llm, reference):
    closed = llm.stream(PROMPTS[0], max_new_tokens=NEW_TOKENS)
    next(closed)
    closed.close()
    dropped = llm.stream(PROMPTS[1], max_new_tokens=NEW_TOKENS)
    next(dropped)
    del dropped

    assert llm.generate(PROMPTS[2], max_new_tokens=NEW_TOKENS).token_ids == reference[PROMPTS[2]]


def test_a_request_inside_a_request_is_refused_and_the_outer_one_goes_on(llm, reference):
    stream = llm.stream(PROMPTS[0], max_new_tokens=8)
    first = next(stream)
    with pytest.raises(Exception, match="already generating"):
        llm.generate(PROMPTS[1], max_new_tokens=4)

    assert first + "".join(stream) == llm.tokenizer.decode(reference[PROMPTS[0]][:8], skip_special_tokens=True)
