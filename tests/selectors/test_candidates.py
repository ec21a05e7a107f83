import torch

from conflayers.plan import Plan
from conflayers.selectors.candidates import LEAST, MOST_SIZES, START, SUBLAYERS, suggest
from conflayers.selectors.rule import every_second_layer


def of_rule(plans: dict[Plan, str], rule: str) -> list[Plan]:
    return [plan for plan, one in plans.items() if one == rule]


def test_the_least_confident_layers_come_in_every_size_and_in_order():
    attention = torch.tensor([9.0, 3.0, 1.0, 2.0, 5.0, 9.0])

    plans = suggest(torch.stack([attention, torch.zeros(6)]))

    assert of_rule(plans, LEAST) == [Plan.layers(s) for s in ([2], [2, 3], [1, 2, 3], [1, 2, 3, 4])]


def test_a_run_of_idle_layers_is_among_the_candidates_though_it_is_no_valley():
    confidences = torch.full((2, 12), 0.4)
    confidences[:, 5:10] = torch.tensor([0.010, 0.009, 0.010, 0.009, 0.010])

    assert Plan.layers(range(5, 10)) in suggest(confidences)


def test_sublayers_are_ranked_by_their_place_among_their_kind():
    # All MLPs are less confident than all attentions, yet the attention of layer 1 is the odd one out of its kind.
    attention = torch.tensor([1.0, 0.1, 0.9, 0.9, 0.9, 1.0])
    mlp = torch.tensor([1.0, 0.011, 0.011, 0.010, 0.011, 1.0])

    first = of_rule(suggest(torch.stack([attention, mlp])), SUBLAYERS)[:2]

    assert set(first) == {Plan(attention=frozenset([1])), Plan(attention=frozenset([1]), mlp=frozenset([3]))} or set(
        first
    ) == {Plan(mlp=frozenset([3])), Plan(attention=frozenset([1]), mlp=frozenset([3]))}


def test_the_first_and_the_last_layer_are_never_skipped_and_nothing_empty_is_proposed():
    for layers in (3, 4, 16, 80):
        confidences = torch.rand(2, layers, generator=torch.Generator().manual_seed(layers))
        plans = suggest(confidences)
        assert plans
        for plan in plans:
            assert plan.skipped
            assert not {0, layers - 1} & (plan.attention | plan.mlp)


def test_a_deep_model_has_no_more_candidates_than_can_be_handled():
    plans = suggest(torch.rand(2, 126, generator=torch.Generator().manual_seed(0)))

    assert len(plans) <= 2 * MOST_SIZES + 11


def test_every_second_layer_is_always_among_them():
    plans = suggest(torch.rand(2, 20, generator=torch.Generator().manual_seed(1)))

    assert plans[every_second_layer(20)] in (START, LEAST, SUBLAYERS, "valley")
    assert suggest(torch.zeros(2, 9))
