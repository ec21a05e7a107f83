from conflayers import Plan, Result
from conflayers.cli.report import decisions, statistics, table, verdict
from conflayers.compare import Row
from conflayers.stats import Stats

PLAIN = Row("vanilla", 10.0, 1.0, 1.0, 0.0, 0.0, 0.0, True, 8, 0.8)
OURS = Row("conflayers", 9.7, 0.97, 1.1, 0.25, 0.4, 0.01, True, 8, 0.82)
TRIED = Stats(new_tokens=8, num_spec_steps=4, num_draft_tokens=8, num_accepted_draft_tokens=2, skipped_share=3.2)


def result(plan=None, said=(), stats=TRIED):
    return Result("", [1] * 8, [1], stats, plan, list(said))


def test_the_fallback_is_told_with_its_numbers():
    [line] = verdict([PLAIN, OURS], result(said=["rejected"]))
    assert line.startswith(
        "ConfLayers fell back to plain decoding: skipping 40% of the sublayers, 2 of 8 drafted tokens"
    )
    assert "0.97 times the speed of plain decoding" in line


def test_a_search_without_a_judgement_is_no_fallback():
    [tried] = verdict([PLAIN, OURS], result())
    [idle] = verdict([PLAIN, OURS], result(stats=Stats(new_tokens=8)))
    assert "was still trying what to draft with when the text ended (2 of 8 drafted tokens were accepted)" in tried
    assert "the text ended before any draft was judged" in idle


def test_a_plan_is_told_with_its_speed():
    [line] = verdict([PLAIN, OURS], result(Plan.layers([2]), ["adopted"]))
    assert line.startswith("ConfLayers ended with a plan that skips layers 2: 0.97 times")


def test_a_difference_is_told_with_its_place():
    differs = Row("hf", 10.0, 1.0, 1.0, 0.0, 0.0, 0.0, False, 8, 0.8, first_difference=3)
    lines = verdict([PLAIN, differs, OURS], result(said=["rejected"]))
    assert lines[0].startswith("transformers first differs from plain decoding at new token 3")
    assert list(table([PLAIN, differs]).columns[-1].cells) == ["yes", "no"]


def test_statistics_in_a_line():
    line = statistics(result())
    assert line.startswith("8 tokens in 0.00 s")
    assert "1.50 tokens a pass; 2 of 8 drafted tokens were accepted, skip ratio 0.40" in line
    assert "drafted" not in statistics(result(stats=Stats(new_tokens=8)))


def test_of_many_decisions_the_latest_are_shown():
    said = [str(number) for number in range(20)]
    assert decisions(result(said=said)) == ["(14 earlier decisions)", *said[14:]]
    assert decisions(result(said=said[:2])) == said[:2]
