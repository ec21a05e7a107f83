"""`generate --explain`: every way to draft that was considered, with what it brought."""

import json


def test_what_was_considered_is_told_and_counts_are_those_of_the_request(run, model):
    result = run("generate", model, "--prompt", "the sky is", "--max-new-tokens", "80", "--json")
    document = json.loads(result.stdout)
    considered = {json.dumps(one["plan"]): one for one in document["standings"]}

    lookup = considered[json.dumps({"skip_attention": [], "skip_mlp": [], "precision": "none"})]
    assert lookup["forecast"] is None
    assert all(one["rounds"] == 0 or one["live"] is not None for one in considered.values())
    assert sum(one["rounds"] for one in considered.values()) <= document["statistics"]["new_tokens"]


def test_a_table_for_people(run, model):
    result = run("generate", model, "--prompt", "the sky is", "--max-new-tokens", "40", "--explain")
    assert "draft that" in result.stdout
    assert "looks up" in result.stdout


def test_a_method_that_does_not_choose_says_so(run, model):
    result = run("generate", model, "--prompt", "the sky", "--max-new-tokens", "4", "--method", "vanilla", "--explain")
    assert result.exit_code == 0
    assert "nothing to explain" in result.stderr
