"""Drafts from the text and from the model's own sublayers: where each token comes from, and what it costs."""

import pytest
import torch
from doubles import FakeBody, expected, run, said

from conflayers import InputError, Plan
from conflayers.costs import Costs
from conflayers.drafters.calibration import Calibration
from conflayers.drafters.lookup import Lookup, confidence
from conflayers.methods import build_method
from conflayers.plan import LOOKUP
from conflayers.round import Method, Round
from conflayers.selectors.fixed import Fixed

PLAN = Plan.layers([2, 3])
# What the fake body says repeats itself after this many tokens, its whole vocabulary.
PERIOD = 50


def method(plan: Plan, **options) -> Method:
    costs = Costs(8)
    return Method("lookup", Lookup(costs, **options), Fixed(plan), costs)


def test_a_text_that_repeats_itself_is_drafted_without_a_single_draft_step():
    body = FakeBody()
    tokens, stats = run(body, method(LOOKUP), 150)

    assert tokens == expected(150)
    assert body.draft_steps == 0
    assert stats.num_lookup_tokens == stats.num_draft_tokens > 80
    assert stats.num_accepted_draft_tokens > 80
    assert body.passes < 150 - 80
    assert stats.skip_ratio == 0


def test_while_nothing_repeats_every_round_is_a_plain_step():
    body = FakeBody()
    _, stats = run(body, method(LOOKUP), PERIOD - 5, prompt=[said(position) for position in range(3)])

    assert stats.num_draft_tokens == 0
    assert body.rows[1:] == [1] * (PERIOD - 6)


def test_tokens_of_the_models_own_fill_what_the_text_does_not_have():
    body = FakeBody()
    tokens, stats = run(body, method(PLAN), 150)

    assert tokens == expected(150)
    own = stats.num_draft_tokens - stats.num_lookup_tokens
    assert 0 < body.draft_steps == own < stats.num_draft_tokens
    assert stats.skip_ratio == PLAN.skip_ratio(8)


def test_the_models_own_draft_reads_what_was_found_before_it_in_one_pass():
    """The fake body checks that every pass continues what it has cached, at the right position."""
    body = FakeBody(agrees=lambda plan, position: position % 3 > 0)
    tokens, stats = run(body, method(PLAN), 200)

    assert tokens == expected(200)
    assert stats.num_lookup_tokens > 0


def test_a_dialogue_is_searched_from_its_beginning_and_another_text_is_not():
    body, used = FakeBody(), method(LOOKUP)
    first, _ = run(body, used, 20, prompt=(1, 2, 3))
    continued = [1, 2, 3, *first]
    run(body, used, 20, prompt=continued)
    assert used.drafter._text.tokens[: len(continued)] == continued

    run(body, used, 5, prompt=(9, 9))
    assert used.drafter._text.tokens[:2] == [9, 9]


@pytest.mark.parametrize("count", [1, 2, 3, 60, 61])
def test_no_token_is_drafted_past_the_end(count):
    tokens, stats = run(FakeBody(), method(LOOKUP), count)

    assert tokens == expected(count)
    assert stats.new_tokens == count


def test_the_end_of_the_text_ends_a_chain():
    end = said(3 + 70)
    tokens, _ = run(FakeBody(), method(LOOKUP), 150, end=frozenset({end}))

    assert tokens[-1] == end
    assert tokens == expected(len(tokens))


def test_found_tokens_and_drafted_ones_are_judged_apart():
    calibration = Calibration()
    done = Round(PLAN, 3, 1, 2, 1.0, 1.0, on_chain=1, confidences=(0.5, 0.9, 0.9), looked_up=frozenset({0}))
    for _ in range(20):
        calibration.learn(done)

    assert calibration.of(LOOKUP).rate > 0.9
    assert calibration.of(PLAN).rate < 0.5
    assert done.steps == 2


def test_what_was_worth_nothing_in_one_text_gets_a_chance_in_the_next():
    calibration = Calibration()
    done = Round(LOOKUP, 1, 0, 1, 0.0, 1.0, confidences=(0.5,), looked_up=frozenset({0}))
    for _ in range(100):
        calibration.learn(done)
    before = calibration.of(LOOKUP).acceptance(0.5)
    calibration.another_text(LOOKUP)

    assert before < 0.01 < calibration.of(LOOKUP).acceptance(0.9)
    assert calibration.of(LOOKUP).rate > before
    assert sum(calibration.of(LOOKUP).tried) < 20


def test_longer_matches_are_surer():
    sure = [confidence(length) for length in range(1, 60)]
    assert sure == sorted(sure)
    assert 0 < sure[0] < sure[-1] < 1


def test_found_tokens_that_are_always_wrong_are_soon_not_worth_their_row():
    class Stubborn(FakeBody):
        """Says what it likes where the text has said something else after the same words."""

        def _logits(self, position: int) -> torch.Tensor:
            row = torch.full((self.vocab_size,), -10.0)
            # Every second token is the same, what follows it never is.
            row[7 if position % 2 else position // 2 % 40 + 8] = 10.0
            return row

    used = method(LOOKUP)
    # A clock by which every row costs as much as a pass.
    body, now = Stubborn(), [0.0]
    original = body.forward

    def forward(tokens, **how):
        now[0] += len(tokens)
        return original(tokens, **how)

    body.forward = forward
    _, stats = run(body, used, 78, clock=lambda: now[0])
    assert stats.num_draft_tokens < 30


def test_options_are_checked_by_name():
    with pytest.raises(InputError, match="method 'auto' has no option 'draft_length'"):
        build_method("auto", 8, draft_length=3)
    with pytest.raises(InputError, match="max_draft_tokens must be"):
        build_method("lookup", 8, max_draft_tokens=0)
    with pytest.raises(InputError, match="lookup must be"):
        build_method("auto", 8, lookup="yes")
    with pytest.raises(InputError, match="precision must be 'int8' or 'int4'"):
        build_method("view", 8, precision="int3")
    with pytest.raises(InputError, match="takes no plan"):
        build_method("lookup", 8, PLAN)
