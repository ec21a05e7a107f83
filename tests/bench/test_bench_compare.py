import json
from pathlib import Path

import pytest
import typer
from made_results import SAMPLES, record, results
from typer.testing import CliRunner

from conflayers.bench.compare import QUANTITIES, compare, machine_differences, only_in_one, setting_differences
from conflayers.bench.record import Difference
from conflayers.bench.results import Results
from conflayers.cli import bench_compare
from conflayers.errors import InputError

app = typer.Typer()
app.command()(bench_compare.run)


def run(tmp_path: Path, before: Results, after: Results, *options: str):
    before.save(tmp_path / "before")
    after.save(tmp_path / "after")
    return CliRunner().invoke(app, [str(tmp_path / "before"), str(tmp_path / "after"), *options])


def benchmark(slower: tuple[float, ...] = (1, 1, 1), repeats: int = 1, method: str = "m", **changes) -> Results:
    """Plain decoding takes 2, 4 and 6 s for 100 tokens each; the method half of it, by `slower` longer."""
    records = []
    for repeat in range(repeats):
        for sample, seconds in enumerate((2.0, 4.0, 6.0)):
            records.append(record("vanilla", sample, seconds, repeat=repeat))
            mine = seconds / 2 * slower[sample]
            drafts = {"drafted": 100, "accepted": 75, "steps": 25, "select": mine / 10}
            records.append(record(method, sample, mine, repeat=repeat, **drafts))
    return results(records, repeat=repeats, **changes)


def of(changes, quantity: str, method: str = "m", category: str = "all"):
    found = [one for one in changes if (one.method, one.category, one.quantity) == (method, category, quantity)]
    assert len(found) == 1
    return found[0]


def test_equal_benchmarks_have_no_change_in_anything():
    changes = compare(benchmark(), benchmark())
    assert {one.verdict for one in changes} == {"same"}
    assert {one.quantity for one in changes if one.method == "m"} == {*QUANTITIES, "identical"}
    assert {one.quantity for one in changes if one.method == "vanilla"} == {"tokens_per_second"}
    assert {one.category for one in changes} == {"all", "questions: trivia", "code"}


def test_before_and_after_are_what_one_works_out_by_hand():
    # All requests twice as long: 300 tokens in 6 s, then in 12 s, where plain decoding takes 12 s.
    changes = compare(benchmark(), benchmark((2, 2, 2)))
    speed = of(changes, "tokens_per_second")
    assert (speed.before, speed.after, speed.change) == pytest.approx((50, 25, -0.5))
    assert speed.interval == pytest.approx((-0.5, -0.5))
    assert (speed.samples, speed.verdict) == (3, "worse")
    speedup = of(changes, "speedup")
    assert (speedup.before, speedup.after, speedup.verdict) == pytest.approx((2, 1, "worse"))
    accepted = of(changes, "mean_accepted_tokens")
    # 225 of 300 drafted tokens accepted in 75 passes.
    assert (accepted.before, accepted.after, accepted.verdict) == (4, 4, "same")
    assert of(changes, "acceptance_rate").before == 0.75
    assert of(changes, "select_share").after == pytest.approx(0.1)
    trivia = of(changes, "tokens_per_second", category="questions: trivia")
    assert trivia.before == pytest.approx(200 / 3)
    # One sample alone has no interval.
    assert of(changes, "speedup", category="code").verdict == "unknown"


def test_better_is_better_and_less_searching_is_too():
    before, after = benchmark((2, 2, 2)), benchmark()
    for one in after.records:
        one.stats.select_seconds = 0.0
    changes = compare(before, after)
    assert of(changes, "speedup").verdict == "better"
    share = of(changes, "select_share")
    assert (share.change, share.verdict) == (pytest.approx(-0.1), "better")


def test_repeats_are_means_whatever_their_number():
    speed = of(compare(benchmark(repeats=3), benchmark((1.1, 1.1, 1.1), repeats=2)), "tokens_per_second")
    assert (speed.before, speed.samples) == (pytest.approx(50), 3)
    assert speed.change == pytest.approx(1 / 1.1 - 1)


def test_a_change_below_the_threshold_is_none():
    after = benchmark((1.05, 1.05, 1.05))
    assert of(compare(benchmark(), after), "speedup").verdict == "worse"
    assert of(compare(benchmark(), after, threshold=0.06), "speedup").verdict == "same"


def test_only_requests_that_both_have_are_compared_and_they_are_found_by_id():
    before = benchmark()
    before.samples, before.records = before.samples[1:], before.records[2:]
    for one in before.records:
        one.sample -= 1
    speed = of(compare(before, benchmark()), "tokens_per_second")
    # Without q1: 200 tokens in 5 s.
    assert (speed.before, speed.after, speed.samples) == (40, 40, 2)


def test_no_request_in_common_is_refused():
    before, after = benchmark(), benchmark()
    before.records, after.records = before.records[:2], after.records[2:]
    with pytest.raises(InputError, match="no request in common"):
        compare(before, after)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"identity": {"weights_digest": "cd"}}, "model differ"),
        ({"data": ["questions"]}, "data differ"),
        ({"digests": {"questions": "11", "code": "33"}}, "digests differ"),
        ({"max_new_tokens": 50}, "max_new_tokens differ: max_new_tokens 100 and 50"),
    ],
)
def test_other_work_is_refused(change, named):
    with pytest.raises(InputError, match=named):
        compare(benchmark(), benchmark(**change))


def test_the_same_weights_in_another_place_are_the_same_model():
    compare(benchmark(), benchmark(model="/elsewhere/tiny"))
    with pytest.raises(InputError, match="model 'tiny' and 'other'"):
        compare(benchmark(identity=None), benchmark(identity=None, model="other"))


def test_what_differs_of_the_machine_is_named():
    versions = {"python": "3.12.1", "conflayers": "0.2.0", "torch": "2.7.0"}
    after = benchmark(versions=versions, threads=4, processor="Slow", fresh=True)
    assert machine_differences(benchmark(), after) == ["threads", "processor", "versions.torch"]
    assert setting_differences(benchmark(), after) == ["fresh"]


def test_tokens_per_second_of_another_machine_are_no_regression(tmp_path):
    after = benchmark(processor="Slow")
    for one in after.records:
        one.seconds *= 2
        one.stats.select_seconds *= 2
    result = run(tmp_path, benchmark(), after)
    assert result.exit_code == 0
    assert "- worse, does not count: m (all) tokens_per_second 50 -> 25, -50.0%" in result.stdout
    assert "the machines differ in processor" in result.stderr
    assert run(tmp_path, benchmark(), benchmark((2, 2, 2), processor="Slow")).exit_code == 1


def test_a_regression_exits_with_1(tmp_path):
    result = run(tmp_path, benchmark(), benchmark((1.1, 1.1, 1.1)))
    assert result.exit_code == 1
    assert "- worse: m (all) speedup 2 -> 1.818, -9.1% (95% interval -9.1% to -9.1%, 3 samples)" in result.stdout
    assert "(code)" not in result.stdout
    # Of three categories, code with one sample: plain decoding's tokens per second, and six quantities of the method.
    assert "21 comparisons: 4 regressions; 15 did not" in result.stdout.splitlines()[-2]
    assert "0 may be noise, 2 cannot be told" in result.stdout.splitlines()[-2]
    document = json.loads(result.stdout.splitlines()[-1])
    # Tokens per second and speedup, of everything and of the two trivia questions.
    assert document["regressions"] == 4
    assert run(tmp_path, benchmark(), benchmark((1.1, 1.1, 1.1)), "--threshold", "0.2").exit_code == 0


def test_noise_does_not(tmp_path):
    result = run(tmp_path, benchmark(), benchmark((0.9, 1.2, 1.05)))
    assert result.exit_code == 0
    document = json.loads(result.stdout.splitlines()[-1])
    speed = next(one for one in document["changes"] if (one["method"], one["quantity"]) == ("m", "speedup"))
    assert speed["verdict"] == "unclear"
    assert speed["change"] == pytest.approx(6 / 6.45 - 1)


@pytest.mark.parametrize("before", [True, None])
def test_a_lost_text_exits_with_1(tmp_path, before):
    after = benchmark()
    after.records[1].identical, after.records[1].difference = False, Difference(3, 1, 2, 0.5)
    first = benchmark()
    for one in first.records:
        one.identical = before
    result = run(tmp_path, first, after)
    assert result.exit_code == (1 if before else 0)
    assert ("- worse: m (all) identical yes -> no" in result.stdout) == bool(before)
    assert ("? unknown: m (all) identical not measured -> no" in result.stdout) == (before is None)


def test_memory_counts_from_5_percent_on():
    before, after = benchmark(), benchmark()
    before.memory = {"m": {"peak_mb": 1000.0}, "vanilla": {"peak_mb": 1000.0}}
    after.memory = {"m": {"peak_mb": 1051.0}, "vanilla": {"peak_mb": 1049.0}}
    changes = compare(before, after)
    assert of(changes, "peak_memory_mb").verdict == "worse"
    assert of(changes, "peak_memory_mb", "vanilla").verdict == "same"
    after.memory = {}
    assert of(compare(before, after), "peak_memory_mb").verdict == "unknown"


def test_methods_of_one_side_are_listed(tmp_path):
    before, after = benchmark(), benchmark(method="n\x1b[31m")
    assert only_in_one(before, after) == (["m"], ["n\x1b[31m"])
    result = run(tmp_path, before, after)
    assert result.exit_code == 0
    assert f"only in {tmp_path / 'before'}: m\n" in result.stdout
    assert f"only in {tmp_path / 'after'}: n [31m\n" in result.stdout
    document = json.loads(result.stdout.splitlines()[-1])
    assert (document["only_before"], document["only_after"]) == (["m"], ["n\x1b[31m"])


def test_a_method_that_ceased_to_draft_still_has_its_speed():
    after = benchmark((2, 2, 2))
    for one in after.records:
        one.stats.num_draft_tokens = one.stats.num_accepted_draft_tokens = 0
    changes = compare(benchmark(), after)
    assert of(changes, "speedup").verdict == "worse"
    rate = of(changes, "acceptance_rate")
    assert (rate.before, rate.after, rate.verdict) == (0.75, None, "unknown")


def test_results_of_another_format_are_refused(tmp_path):
    benchmark().save(tmp_path)
    document = json.loads((tmp_path / "results.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps(document | {"format": 99}))
    result = CliRunner().invoke(app, [str(tmp_path), str(tmp_path / "other.json")])
    assert isinstance(result.exception, InputError)
    assert "format 99" in str(result.exception)


@pytest.mark.parametrize("threshold", ["-0.1", "1", "nan", "inf"])
def test_a_threshold_that_is_no_share_is_refused(tmp_path, threshold):
    result = run(tmp_path, benchmark(), benchmark(), "--threshold", threshold)
    assert isinstance(result.exception, InputError)


def test_samples_of_one_id_are_told_apart():
    before = benchmark()
    for sample in before.samples:
        sample.update(SAMPLES[0])
    assert of(compare(before, before), "speedup").samples == 3
