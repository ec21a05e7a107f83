from itertools import pairwise

import pytest
from priced import ACCEPT, BESIDE, KEEP, LAYER, LEARN, MORE, PASS, PREPARE, PROPOSE, ROW, TEXT, PricedLlm

from conflayers.errors import InputError, PlanError
from conflayers.plan import Plan
from conflayers.predict.calibration import CALM, SAMPLE, WARM_UP, calibrate

HALF, ONE = Plan.layers([1, 2, 3, 4]), Plan.layers([5])
PLANS = {"uniform:draft_length=3": HALF, "swift:skip_ratio=0.3:tree=none": ONE}
ROUND = PASS + ACCEPT + KEEP + TEXT
TOKEN = PASS + PROPOSE + BESIDE + MORE
PLAIN_REQUEST = PREPARE + PASS + 11 * ROW + ACCEPT + KEEP + TEXT


def costs_of(llm, plans=PLANS, **changes):
    arguments = {"prompt": 12, "new_tokens": 40, "turns": 2, "clock": llm.clock, **changes}
    return calibrate(llm, plans, range(30), **arguments)


def test_every_part_of_a_request_is_in_one_price_and_in_no_other():
    costs = costs_of(PricedLlm())
    assert costs.request == pytest.approx(PLAIN_REQUEST)
    assert costs.plain == pytest.approx(ROUND)
    for name, plan in PLANS.items():
        found, token = costs.drafting[name], TOKEN - LAYER * len(plan.whole_layers)
        assert found.plan == plan
        assert (found.token, found.row, found.round) == pytest.approx((token, ROW, ROUND + LEARN))


def test_where_all_rounds_are_alike_a_row_belongs_to_the_round():
    costs = costs_of(PricedLlm(), {"uniform:draft_length=1": ONE})
    assert costs.drafting["uniform:draft_length=1"].row == 0
    assert costs.drafting["uniform:draft_length=1"].round == pytest.approx(ROUND + LEARN + ROW)


def test_prompts_are_pieces_of_the_text_that_put_the_rounds_in_the_middle_of_a_request():
    llm = PricedLlm()
    costs = costs_of(llm)
    context = 12 + (40 - SAMPLE) // 2
    assert costs.context == context
    assert {len(prompt) for prompt in llm.prompts} == {12, context}
    assert all((b - a) % 30 == 1 for prompt in llm.prompts for a, b in pairwise(prompt))
    assert len({prompt[0] for prompt in llm.prompts}) > 1
    assert costs_of(PricedLlm(), new_tokens=5).context == 12


def test_turns_that_were_disturbed_count_for_nobody():
    each = 2 + len(PLANS)  # requests a turn

    def disturb(request):
        # In one of four turns, one method meets other work.
        turn, place = divmod(request - WARM_UP * each, each)
        return 50.0 if turn == 2 and place == 2 else 0.0

    assert CALM == 0.75
    quiet, busy = costs_of(PricedLlm(), turns=4), costs_of(PricedLlm(disturb), turns=4)
    assert (busy.request, busy.plain) == pytest.approx((quiet.request, quiet.plain))
    for name, found in busy.drafting.items():
        other = quiet.drafting[name]
        assert (found.token, found.row, found.round) == pytest.approx((other.token, other.row, other.round))


def test_a_turn_that_is_alone_counts():
    slow = costs_of(PricedLlm(lambda request: 2.0), turns=1)
    assert slow.plain == pytest.approx(ROUND + 2)


def test_plain_values_are_milliseconds():
    found = costs_of(PricedLlm(), {"uniform:draft_length=3": ONE}).as_dict()
    assert found["plain_ms"] == pytest.approx(1e3 * ROUND)
    assert found["request_ms"] == pytest.approx(1e3 * PLAIN_REQUEST)
    drafting = found["drafting"]["uniform:draft_length=3"]
    assert drafting["plan"] == "skips layers 5"
    assert drafting["token_ms"] == pytest.approx(1e3 * (TOKEN - LAYER))
    assert set(drafting) == {"plan", "token_ms", "row_ms", "round_ms"}


@pytest.mark.parametrize("changes", [{"prompt": 0}, {"new_tokens": 1}, {"turns": 0}])
def test_a_calibration_that_cannot_be_is_an_error(changes):
    with pytest.raises(InputError, match="a calibration needs"):
        costs_of(PricedLlm(), **changes)


def test_what_cannot_be_timed_is_an_error():
    with pytest.raises(InputError, match="a calibration needs"):
        calibrate(PricedLlm(), PLANS, [], prompt=3, new_tokens=9)
    with pytest.raises(InputError, match="no method"):
        costs_of(PricedLlm(), {"unifrom": ONE})
    with pytest.raises(PlanError):
        costs_of(PricedLlm(), {"uniform": Plan.layers([20])})
    with pytest.raises(InputError, match="ended at once"):
        costs_of(PricedLlm(end=frozenset(range(50))))


def test_a_method_that_drafts_nothing_is_an_error():
    with pytest.raises(InputError, match="drafted nothing"):
        # Two tokens are one from the prompt's pass and one more, before which nothing can be drafted.
        costs_of(PricedLlm(), {"uniform": ONE}, new_tokens=2)


def test_a_request_that_fails_leaves_its_error():
    with pytest.raises(RuntimeError, match="planted"):
        costs_of(PricedLlm(fail_at=9))
