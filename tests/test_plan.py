import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflayers.errors import PlanError
from conflayers.plan import FULL, ModelIdentity, Plan, load_plan, save_plan

MODEL = ModelIdentity("LlamaForCausalLM", 12, 64, 100, "abcd")
LAYERS = st.frozensets(st.integers(0, 11))


@given(LAYERS, LAYERS)
def test_a_saved_plan_comes_back_the_same(tmp_path_factory, attention, mlp):
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    plan = Plan(attention, mlp)

    save_plan(path, plan, MODEL, {"method": "conflayers"})

    assert load_plan(path, MODEL) == plan
    assert json.loads(path.read_text())["provenance"] == {"method": "conflayers"}


def test_ratios_count_sublayers():
    assert Plan.layers([1, 2]).skip_ratio(4) == 0.5
    assert Plan(attention=frozenset([1])).skip_ratio(4) == 0.125
    assert FULL.skip_ratio(4) == 0.0
    assert Plan(frozenset([1, 2]), frozenset([2, 3])).whole_layers == {2}


def test_a_plan_says_what_it_skips():
    assert str(Plan(frozenset([1, 2]), frozenset([2, 3]))) == "skips layers 2; attention of 1; MLP of 3"
    assert str(FULL) == "skips nothing"


def test_a_plan_for_more_layers_than_there_are_is_refused():
    with pytest.raises(PlanError, match="skips layer 12, but the model has layers 0 to 11"):
        Plan.layers([3, 12]).check(12)


@pytest.mark.parametrize("field", ["architecture", "layers", "hidden_size", "vocab_size", "weights_digest"])
def test_a_plan_for_another_model_is_refused_by_name(tmp_path, field):
    path = tmp_path / "plan.json"
    save_plan(path, Plan.layers([1]), MODEL, {})
    document = json.loads(path.read_text())
    document["model"][field] = "other"
    path.write_text(json.dumps(document))

    with pytest.raises(PlanError, match=f"another model: its {field} is 'other'"):
        load_plan(path, MODEL)


def _document() -> dict:
    return {
        "format": 2,
        "model": {
            "architecture": "LlamaForCausalLM",
            "layers": 12,
            "hidden_size": 64,
            "vocab_size": 100,
            "weights_digest": "abcd",
        },
        "skip_attention": [1],
        "skip_mlp": [1],
        "precision": "whole",
        "provenance": {},
    }


def _with(**changes) -> str:
    return json.dumps({**_document(), **changes})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not a plan file"),
        ("[1, 2]", "expected a JSON object"),
        ("{}", "lacks format"),
        (_with()[:-20], "not a plan file"),
        (_with(format=99), "plan format 99"),
        (_with(format=True), "plan format True"),
        (_with(model={**_document()["model"], "layers": 12.0}), "its layers is 12.0"),
        (_with(extra=1), "unknown entries in the plan: extra"),
        (_with(model=[]), "'model' must be an object"),
        (_with(model={}), "'model' lacks architecture"),
        (_with(skip_attention=[1.5]), "skip_attention must be a list of layer numbers"),
        (_with(skip_attention=[True]), "skip_attention must be a list of layer numbers"),
        (_with(skip_mlp=[10**30]), "skips layer 1000000000000000000000000000000"),
        (_with(skip_mlp=[-1]), "skips layer -1"),
        (_with(precision="int2"), "precision must be 'whole', 'int8', 'int4', 'none', not 'int2'"),
        (_with(precision=4), "precision must be"),
        (_with(precision=[]), "precision must be"),
        ("[" * 100_000, "not a plan file"),
        ("\x00\xff", "not a plan file"),
    ],
)
def test_a_damaged_plan_is_refused_with_what_is_wrong(tmp_path, text, complaint):
    path = tmp_path / "plan.json"
    path.write_text(text, encoding="latin-1")

    with pytest.raises(PlanError, match=complaint):
        load_plan(path, MODEL)


def test_truncations_anywhere_are_refused(tmp_path):
    path = tmp_path / "plan.json"
    for length in range(len(_with())):
        path.write_text(_with()[:length])
        with pytest.raises(PlanError):
            load_plan(path, MODEL)


def test_places_that_cannot_be_read_or_written_are_named(tmp_path):
    with pytest.raises(PlanError, match="no plan file at"):
        load_plan(tmp_path / "missing.json", MODEL)
    with pytest.raises(PlanError, match="no plan file at"):
        load_plan(tmp_path, MODEL)
    with pytest.raises(PlanError, match="cannot write the plan"):
        save_plan(tmp_path / "nowhere" / "plan.json", FULL, MODEL, {})
    large = tmp_path / "large.json"
    large.write_bytes(b" " * (1 << 20) + b"{}")
    with pytest.raises(PlanError, match="larger than 1 MB"):
        load_plan(large, MODEL)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PlanError, match="no plan file at"):
        load_plan(tmp_path / "pipe", MODEL)


def test_a_plan_is_written_through_a_link_and_never_over_a_device_or_a_pipe(tmp_path):
    target, link, pipe = tmp_path / "target.json", tmp_path / "link.json", tmp_path / "pipe"
    link.symlink_to(target)
    os.mkfifo(pipe)

    save_plan(link, Plan.layers([1]), MODEL, {})

    assert link.is_symlink()
    assert load_plan(target, MODEL) == Plan.layers([1])
    with pytest.raises(PlanError, match="not a regular file"):
        save_plan(pipe, FULL, MODEL, {})
    assert pipe.is_fifo()


def test_a_failed_save_leaves_the_earlier_plan_and_no_litter(tmp_path):
    path = tmp_path / "plan.json"
    save_plan(path, Plan.layers([1]), MODEL, {})

    with pytest.raises(PlanError, match="provenance takes numbers, texts, lists and objects only"):
        save_plan(path, Plan.layers([2]), MODEL, {"not": object()})

    assert load_plan(path, MODEL) == Plan.layers([1])
    assert [entry.name for entry in Path(tmp_path).iterdir()] == ["plan.json"]


@pytest.mark.parametrize(
    ("indices", "complaint"),
    [
        ([1.5], "skips layer 1.5, but layers are whole numbers"),
        ([True], "skips layer True"),
        ([3, -1], "skips layer -1"),
        (["1"], "skips layer '1'"),
        (5, "a list of whole numbers, not 5"),
    ],
)
def test_only_layer_numbers_make_a_plan(indices, complaint):
    with pytest.raises(PlanError, match=complaint):
        Plan.layers(indices)
    with pytest.raises(PlanError, match="attention must be a frozenset"):
        Plan(attention=[1])
