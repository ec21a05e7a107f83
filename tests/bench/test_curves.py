import pytest
from made_results import record, row

from conflayers.bench.curves import lambdas, stream


def test_speedup_is_a_ratio_of_totals_until_each_request():
    records = [
        record("vanilla", 0, 4.0, 100),
        record("m", 0, 2.0, 100),
        record("m", 1, 3.0, 50),
        record("vanilla", 1, 2.0, 100),
        record("vanilla", 2, 6.0, 100),
        record("m", 2, 1.0, 150),
    ]
    found = stream(records, []).curves["m"]
    assert found.places == [1, 2, 3]
    # 4/100 over 2/100; 6/200 over 5/150; 12/300 over 6/300.
    assert found.speedups == pytest.approx([2.0, 0.9, 2.0])


def test_a_request_without_plain_decoding_is_left_out():
    records = [record("vanilla", 0, 4.0), record("m", 0, 2.0), record("m", 1, 1.0)]
    assert stream(records, []).curves["m"].places == [1]
    assert stream([record("m", 0, 2.0)], []).curves == {}


def test_data_sets_repeats_and_restarts_have_their_places():
    records = [record(m, s, 1.0, repeat=r) for r in (0, 1) for s in (0, 1, 2) for m in ("vanilla", "m")]
    found = stream(records, [4, 12])
    assert found.data == [(1, "questions"), (3, "code"), (4, "questions"), (6, "code")]
    assert found.repeats == [4]
    # Two requests were done at the first interruption; at the second there was nothing left.
    assert found.restarts == [3]


def plans(*names: str | None, decided: int | None = None, repeat: int = 0):
    return [
        one
        for i, name in enumerate(names)
        for one in (
            record("vanilla", 0, 1.0, repeat=repeat, turn=i),
            record("m", 0, 1.0, repeat=repeat, turn=i, plan=name, decisions=("x",) if i == decided else ()),
        )
    ]


@pytest.mark.parametrize(
    ("records", "settled"),
    [
        (plans("a", "b", "b", "c", "c", "c"), [4]),
        (plans("a", "a", "a"), []),
        (plans("a", "a", "a", decided=0), [1]),
        (plans("a", "a", "b"), []),
        (plans(None, "a", None, None), [3]),
        (plans("a", "b", "b") + plans("a", "a", "b", "b", repeat=1), [2, 6]),
    ],
    ids=["searched", "fixed", "found at once", "still searching", "fell back", "each repeat anew"],
)
def test_where_the_search_ended(records, settled):
    assert stream(records, []).curves["m"].settled == settled


def test_an_interrupted_search_has_two_ends_and_a_fresh_one_none():
    records = plans("a", "b", "b", "a", "c", "c")
    assert stream(records, [6]).curves["m"].settled == [2, 5]
    assert stream(records, [6], fresh=True).curves["m"].settled == []


def test_lambda_is_read_from_names_that_differ_in_nothing_else():
    names = ["a:lam=0.2:b=1", "a:lam=-1:b=1", "a:lam=0.2", "c:lam=x", "d:slam=2", "a", "a:lam=-.4", "a:lam=1e-1"]
    found = lambdas([row(name) for name in names])
    assert {name: [at for at, _ in some] for name, some in found.items()} == {
        "a:b=1": [-1.0, 0.2],
        "a": [-0.4, 0.1, 0.2],
    }
