import json

import pytest

from conflayers.errors import InputError
from conflayers.predict.accelerators import ACCELERATORS, Accelerator
from conflayers.predict.published import compare_published, overhead_lines, read_runs
from conflayers.predict.roofline import Machine
from conflayers.predict.shapes import SHAPES

H100 = Machine(ACCELERATORS["h100-sxm"])
# Skipping costs nothing but the head and verifying many costs as much as one: all is read at the bandwidth.
READING = Machine(Accelerator("reading", 1000, 1e9, launch=0))
PLAIN = {"model": "LLaMA-2-13B", "data": "a", "method": "vanilla", "seconds": 1000}
OURS = {
    "model": "LLaMA-2-13B", "data": "a", "method": "conflayers", "layers": 40, "layers_skipped": 20, "seconds": 800,
    "mean_accepted_tokens": 4.0, "acceptance_rate": 0.75, "speedup": 9.9,
}  # fmt: skip


def test_a_run_by_hand():
    (found,) = compare_published([PLAIN, OURS], READING, tokens=50_000)
    shape = SHAPES["llama-2-13b"]
    head = shape.head_parameters / (shape.parameters - shape.head_parameters)
    # Drafts of (4 - 1) / 0.75 at half the layers, and a verification, in plain steps.
    ideal = 4 * (0.5 + head / 2) + 1
    assert (found.draft_length, found.skip_ratio, found.published) == (4, 0.5, 1.25)
    assert found.predicted == pytest.approx(4 / ideal, rel=1e-3)
    # A round took 4 / 1.25 plain steps of 20 ms.
    assert found.overhead_steps == pytest.approx(3.2 - ideal, rel=1e-2)
    assert found.overhead_ms == pytest.approx(20 * found.overhead_steps)
    assert found.overhead_share == pytest.approx((3.2 - ideal) / 3.2, rel=1e-2)
    assert found.plain_ms == 20


def test_a_run_faster_than_ideal_has_less_than_no_overhead():
    (found,) = compare_published([PLAIN, {**OURS, "seconds": 400}], READING)
    assert found.predicted < found.published == 2.5
    assert found.overhead_share < 0
    assert found.overhead_ms is None


def test_the_speedup_stands_in_for_seconds_and_the_table_for_layers():
    run = {key: value for key, value in OURS.items() if key not in ("seconds", "layers")}
    (found,) = compare_published([run], H100, tokens=50_000)
    assert (found.published, found.skip_ratio, found.overhead_ms) == (9.9, 0.5, None)
    (found,) = compare_published([{**run, "skip_ratio": 0.3}], H100)
    assert found.skip_ratio == 0.3


def test_what_lacks_a_figure_is_shown_with_what_it_lacks():
    run = {key: value for key, value in OURS.items() if key not in ("layers_skipped", "acceptance_rate")}
    (found,) = compare_published([PLAIN, run], H100)
    assert (found.predicted, found.missing) == (None, "acceptance_rate, skip ratio")
    # Nothing published to compare with: neither a number nor seconds of both.
    assert compare_published([{**run, "speedup": "up to 1.4"}], H100) == []


def test_ratios_hardly_depend_on_the_accelerator():
    found = [
        compare_published([PLAIN, OURS], Machine(ACCELERATORS[name]))[0].predicted
        for name in ("a100-40gb", "a100-80gb", "h100-sxm", "h200", "mi300x", "l4")
    ]
    assert max(found) / min(found) < 1.02


def test_overheads_that_lie_on_a_line_give_that_line():
    # 4 ms a round and 2 ms a draft step on top of the ideal, for three lengths.
    runs = [PLAIN]
    for mean_accepted in (2.0, 3.0, 4.5):
        run = {
            **OURS,
            "mean_accepted_tokens": mean_accepted,
            "acceptance_rate": 1.0,
            "method": f"ours, {mean_accepted}",
        }
        (ideal,) = compare_published([PLAIN, run], H100, tokens=50_000)
        round_ms = mean_accepted / ideal.predicted * 20 + 4 + 2 * ideal.draft_length
        runs.append({**run, "seconds": round_ms / mean_accepted * 50_000 / 1e3})
    (line,) = overhead_lines(compare_published(runs, H100, tokens=50_000))
    assert (line.model, line.method, line.runs) == ("LLaMA-2-13B", "ours", 3)
    assert (line.round_ms, line.step_ms) == pytest.approx((4, 2))
    assert line.off_ms == pytest.approx(0, abs=1e-9)
    assert overhead_lines(compare_published(runs[:3], H100, tokens=50_000)) == []


def test_runs_are_read_from_every_list(tmp_path):
    file = tmp_path / "runs.json"
    file.write_text(
        json.dumps({"note": "x", "logs": [PLAIN, OURS], "more": [OURS], "headlines": [{"method": "a"}], "n": [1]}),
        encoding="utf-8",
    )
    assert read_runs(file) == [PLAIN, OURS, OURS]


@pytest.mark.parametrize("content", [None, "no JSON", "[]", '{"logs": [1, {"model": "a"}]}'])
def test_a_file_without_runs_is_an_error(content, tmp_path):
    file = tmp_path / "runs.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="runs"):
        read_runs(file)


def test_a_model_that_is_not_in_the_table_is_an_error():
    with pytest.raises(InputError, match="llama-2-13b"):
        compare_published([{**OURS, "model": "LLaMA-2-13C"}], H100)
