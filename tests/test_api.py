import threading

import pytest
import torch
from planted import planted_model

from conflayers import InputError, Llm, Plan, PlanError
from conflayers.drafters.length import ConfidenceStop
from conflayers.drafters.subnetwork import Subnetwork
from conflayers.round import Method
from conflayers.selectors.fixed import Fixed

PROMPT = [1, 2, 3, 4, 5]
PLAN = Plan.layers([2, 5])
DRAFTS = {"method": "fixed", "plan": PLAN, "confidence_stop": 0.0, "max_draft_tokens": 4}


@pytest.fixture(scope="module")
def llm() -> Llm:
    return Llm(planted_model([2, 4]))


@pytest.fixture(scope="module")
def plain(llm) -> list[int]:
    return llm.generate(PROMPT, method="vanilla", max_new_tokens=40).token_ids


def test_ids_may_come_as_list_tuple_or_tensor(llm, plain):
    for prompt in (PROMPT, tuple(PROMPT), torch.tensor(PROMPT), torch.tensor([PROMPT])):
        result = llm.generate(prompt, max_new_tokens=40, **DRAFTS)
        assert result.token_ids == plain
        assert result.prompt_ids == PROMPT


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        ([], "prompt is empty"),
        (torch.tensor([], dtype=torch.long), "prompt is empty"),
        ("text", "came without a tokenizer"),
        ("", "prompt is empty"),
        ([{"role": "user", "content": "hi"}], "came without a tokenizer"),
        ([[1, 2], [3, 4]], "batch of 2 prompts"),
        (["one", "two"], "batch of 2 prompts"),
        (torch.ones(2, 3, dtype=torch.long), "batch of 2 prompts"),
        (torch.ones(1, 2, 3, dtype=torch.long), "one or two dimensions"),
        (torch.ones(3), "whole numbers"),
        ([1, 128], "token id 128 is outside the model's vocabulary of 128"),
        ([1, -1], "token id -1"),
        ([1, 2.5], "a prompt is a text"),
        ([True, False], "a prompt is a text"),
        (None, "not NoneType"),
        (5, "not int"),
        (b"abc", "not bytes"),
        ([0] * 1025, "1025 tokens, the model's context is 1024"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_refused_by_name(llm, prompt, complaint):
    with pytest.raises(InputError, match=complaint):
        llm.generate(prompt)


def test_a_text_that_no_context_can_hold_is_not_even_tokenized(llm):
    with pytest.raises(InputError, match="65537 characters, which no 1024 tokens"):
        llm.generate("x" * (64 * 1024 + 1))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens must be a whole number of 0 or more, not -1"),
        ({"max_new_tokens": 1.5}, "max_new_tokens"),
        ({"max_new_tokens": True}, "max_new_tokens"),
        ({"max_new_tokens": 10**9}, "at most 1019 fit"),
        ({"method": "conflayer"}, r"no method 'conflayer' \(did you mean 'conflayers'\?\)"),
        ({"num_beams": 2}, "'num_beams' is not honoured here: one text is decoded at a time"),
        ({"streamer": print}, "'streamer' is not honoured here: iterate over"),
        ({"temprature": 0.7}, r"no option 'temprature' \(did you mean 'temperature'\?\)"),
        ({"max_new_token": 5}, r"did you mean 'max_new_tokens'\?"),
        ({"layers": 3}, "has no option 'layers'"),
        ({"name": "x"}, "has no option 'name'"),
        ({"chat": 0}, "chat must be true or false, not 0"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens=9 is more than the 8"),
        ({"bad_words_ids": [[]]}, "bad_words_ids has an empty word"),
        ({"method": "cosine", "threshold": 2}, "threshold must be a cosine"),
        ({"method": "knapspec", "interval": 4}, "interval=4 is less than rounds=5"),
        ({"temperature": -1}, "temperature must be a number of 0 or more"),
        ({"top_p": 2}, "top_p must be a number between 0 and 1"),
        ({"top_k": 2.5}, "top_k must be a whole number"),
        ({"do_sample": "yes"}, "do_sample must be true or false"),
        ({"do_sample": False, "top_p": 0.5}, "do_sample=False contradicts top_p"),
        ({"do_sample": True, "temperature": 0}, "contradicts temperature=0"),
        ({"seed": 1}, "seed needs sampling"),
        ({"do_sample": True, "seed": 1.5}, "seed must be a whole number"),
        ({"do_sample": True, "acceptance": "typical"}, "acceptance must be 'residual' or 'coupled'"),
        ({"repetition_penalty": 0}, "must be above 0"),
        ({"bad_words_ids": [[1, 5000]]}, "bad_words_ids has 5000"),
        ({"bad_words_ids": [7]}, "bad_words_ids takes a list of lists"),
        ({"eos_token_id": -1}, "eos_token_id has -1"),
        ({"stop_strings": ""}, "stop_strings needs a tokenizer"),
        ({"draft_length": "long"}, "draft_length must be 'gain', 'confidence', 'adaptive' or a whole number"),
        ({"draft_length": 0}, "draft_length must be a whole number of 1 or more"),
        ({"draft_length": 4, "max_draft_tokens": 8}, "leave out max_draft_tokens"),
        ({"draft_length": "gain", "confidence_stop": 0.5}, "confidence_stop belongs to"),
        ({"tree": "wide"}, "tree must be 'gain', 'paper' or 'none', not 'wide'"),
        ({"plan": PLAN, "interval": 5}, "with a plan nothing is searched for: leave out 'interval'"),
        ({"skip_ration": 0.5}, r"did you mean 'skip_ratio'\?"),
        ({"method": "vanilla", "skip_ratio": 0.5}, "its options: none"),
        ({"method": "vanilla", "plan": PLAN}, "takes no plan"),
        ({"method": "fixed"}, "needs a plan"),
        ({"variant": "best"}, "variant must be 'default', 'paper', 'rule', not 'best'"),
        ({"variant": "paper", "fallback": "no"}, "fallback must be true or false"),
        ({"variant": "paper", "lam": 0.1}, "'lam' belongs to variant 'rule'"),
        ({"variant": "rule", "lam": "low"}, "lam must be a number"),
        ({"unit": "layer"}, "'unit' belongs to variant 'paper' or 'rule'"),
        ({"max_score": 0.5}, "belongs to variant 'paper'"),
        ({"variant": "paper", "skip_ratio": "much"}, "skip_ratio must be a number between 0 and 1, not 'much'"),
        ({"interval": 1.5}, "interval must be a whole number"),
        ({"context_window": True}, "context_window must be a whole number"),
        ({"variant": "rule", "window": 2.5}, "window must be a whole number of 2 or more"),
        ({"variant": "paper", "min_accepted": "x"}, "min_accepted must be a number"),
        ({"max_draft_tokens": 2.5}, "max_draft_tokens must be a whole number"),
        ({"fallback": "no"}, "fallback must be true or false"),
        ({"confidence_stop": 2}, "confidence_stop must be a number between 0 and 1"),
    ],
)
def test_an_argument_that_cannot_be_honoured_is_refused_by_name(llm, arguments, complaint):
    with pytest.raises(InputError, match=complaint):
        llm.generate(PROMPT, **{"method": "conflayers", **arguments})


def test_a_task_and_options_contradict_each_other(llm):
    task = llm.task("vanilla")
    with pytest.raises(InputError, match="either a task or these"):
        llm.generate(PROMPT, task=task, method="vanilla")
    with pytest.raises(InputError, match="either a task or these"):
        llm.generate(PROMPT, task=task, skip_ratio=0.4)


@pytest.mark.parametrize(
    ("arguments", "complaint"), [({"plan": 5}, "plan must be"), ({"task": "conflayers"}, "task must")]
)
def test_a_plan_or_task_of_the_wrong_kind_is_refused(llm, arguments, complaint):
    with pytest.raises(InputError, match=complaint):
        llm.generate(PROMPT, **arguments)


def test_what_cannot_be_said_about_token_ids_or_messages_is_refused(llm):
    with pytest.raises(InputError, match="leave out chat=True"):
        llm.generate(PROMPT, chat=True)
    with pytest.raises(InputError, match="leave out chat=False"):
        llm.generate([{"role": "user", "content": "hi"}], chat=False)


def test_a_task_of_another_model_is_refused_before_any_pass(llm):
    other = Llm(planted_model([2], layers=6))
    with pytest.raises(InputError, match="made for another model"):
        other.generate(PROMPT, task=llm.task("conflayers"))


def test_a_model_put_into_training_mode_later_is_refused_too():
    llm = Llm(planted_model([]))
    llm.model.train()
    with pytest.raises(InputError, match=r"call model.eval\(\) first"):
        llm.generate(PROMPT)


def test_a_plan_outside_the_model_is_refused(llm):
    with pytest.raises(PlanError, match="layer 12"):
        llm.generate(PROMPT, method="fixed", plan=Plan.layers([12]))


def test_plans_travel_by_file(llm, plain, tmp_path):
    path = tmp_path / "plan.json"
    llm.save_plan(path, PLAN, method="conflayers")

    result = llm.generate(PROMPT, max_new_tokens=40, **{**DRAFTS, "plan": path})

    assert result.token_ids == plain
    assert result.plan == PLAN
    other = Llm(planted_model([2, 4], seed=1))
    with pytest.raises(PlanError, match="another model: its weights_digest"):
        other.generate(PROMPT, method="fixed", plan=str(path))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 6])
def test_exactly_the_tokens_asked_for(llm, plain, count):
    result = llm.generate(PROMPT, max_new_tokens=count, **DRAFTS)

    assert result.token_ids == plain[:count]
    assert result.stats.new_tokens == count


def test_the_whole_context_can_be_used_and_no_more(llm):
    prompt = (PROMPT * 205)[:1020]
    plain = llm.generate(prompt, method="vanilla")

    assert len(plain.token_ids) == 4
    assert llm.generate(prompt, **DRAFTS).token_ids == plain.token_ids
    assert llm.generate(prompt[:3] + prompt, max_new_tokens=1, **DRAFTS).stats.new_tokens == 1
    full = (prompt * 2)[:1024]
    with pytest.raises(InputError, match="fills the model's context of 1024 tokens: shorten it"):
        llm.generate(full)
    with pytest.raises(InputError, match="at most 0 fit"):
        llm.generate(full, max_new_tokens=1)
    assert llm.generate(full, max_new_tokens=0).token_ids == []


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(InputError, match=r"call model.eval\(\) first"):
        Llm(planted_model([]).train())


def untouched(llm) -> bool:
    modules = list(llm.model.modules())
    return not any("forward" in m.__dict__ or m._forward_hooks or m._forward_pre_hooks for m in modules)


@pytest.mark.parametrize("at", range(1, 30, 3))
def test_an_error_in_the_middle_of_anything_leaves_the_model_as_it_was(llm, plain, at):
    calls = 0

    def fail(*_):
        nonlocal calls
        calls += 1
        if calls == at:
            raise RuntimeError("planted")

    # Layer 3 runs in drafts too, layer 2 only in verifications.
    for layer in (2, 3):
        calls = 0
        hook = llm.model.model.layers[layer].register_forward_pre_hook(fail)
        try:
            with pytest.raises(RuntimeError, match="planted"):
                llm.generate(PROMPT, max_new_tokens=150, **DRAFTS)
        finally:
            hook.remove()
        assert untouched(llm)
    assert llm.generate(PROMPT, max_new_tokens=40, **DRAFTS).token_ids == plain


@pytest.mark.parametrize("seed", range(20))
def test_an_interrupt_anywhere_leaves_the_model_as_it_was(llm, plain, seed):
    at = int(torch.randint(1, 400, (1,), generator=torch.Generator().manual_seed(seed)))
    calls = 0

    def interrupt(*_):
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt

    hooks = [m.register_forward_pre_hook(interrupt) for m in llm.model.modules()]
    try:
        with pytest.raises(KeyboardInterrupt):
            llm.generate(PROMPT, max_new_tokens=100, **DRAFTS)
    finally:
        for hook in hooks:
            hook.remove()

    assert untouched(llm)
    assert llm.generate(PROMPT, max_new_tokens=40, **DRAFTS).token_ids == plain


class Raising(Fixed):
    """A selector of the user's own with a mistake in it."""

    def learn(self, state, done):
        raise LookupError("mistake")


def test_an_error_in_a_method_of_the_users_own_leaves_the_model_as_it_was(llm, plain):
    task = Method("mine", Subnetwork(ConfidenceStop(3, 0.0)), Raising(PLAN))

    with pytest.raises(LookupError, match="mistake"):
        llm.generate(PROMPT, task=task, max_new_tokens=20)

    assert untouched(llm)
    assert llm.generate(PROMPT, max_new_tokens=40, **DRAFTS).token_ids == plain


def test_poisoned_weights_never_give_a_token_out_of_range():
    model = planted_model([])
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    tokens = Llm.__new__(Llm)
    with pytest.raises(Exception, match="self-test"):
        tokens.__init__(model)


def test_one_request_at_a_time(llm, plain):
    entered, leave = threading.Event(), threading.Event()

    def wait(*_):
        entered.set()
        leave.wait(10)

    hook = llm.model.model.layers[0].register_forward_pre_hook(wait)
    results = []
    thread = threading.Thread(target=lambda: results.append(llm.generate(PROMPT, max_new_tokens=40, **DRAFTS)))
    thread.start()
    try:
        assert entered.wait(10)
        with pytest.raises(InputError, match="already generating"):
            llm.generate(PROMPT, max_new_tokens=4)
    finally:
        leave.set()
        thread.join()
        hook.remove()
    assert results[0].token_ids == plain
