"""What passes take on this machine, measured once for a model and kept."""

import json
import os
from pathlib import Path

import pytest
import torch
from doubles import FakeBody, Ticks
from transformers import LlamaConfig, LlamaForCausalLM

from conflayers import Llm, expectations
from conflayers.body.claim import claim, let_go
from conflayers.costs import Costs
from conflayers.expected import LEAST_STEP, Expected, Savings, nearest
from conflayers.plan import FULL, WHOLE, Plan

PASSES = ((1, 1.0), (2, 1.1), (8, 1.7))
KNOWN = Expected(32, PASSES, {WHOLE: Savings(0.05, 0.04), "int4": Savings(0.02, 0.02, 0.4)})


class PricedBody(FakeBody):
    """Takes 10 seconds a pass over one token, a tenth more a token, half as much behind every layer left out."""

    kind, why_not_compiled, process = "priced", None, os.getpid()
    seconds, flat = 10.0, 0.0

    def put_back(self) -> None:
        self.plan = FULL

    def forward(self, tokens, **arguments):
        output = super().forward(tokens, **arguments)
        share = 1 - (len(self.plan.attention) + len(self.plan.mlp)) / 2 / self.layers / 2
        self.clock.now += self.flat or (self.seconds + (len(tokens) - 1) * self.seconds / 10) * share
        return output


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONFLAYERS_CACHE", str(tmp_path))
    return tmp_path / "costs"


def build() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=400,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def priced(scale: float) -> PricedBody:
    body = PricedBody()
    body.clock, body.seconds, body.model = Ticks(), 10.0 * scale, build()
    return body


def test_expected_passes_and_steps_by_hand():
    assert KNOWN.row == pytest.approx(0.1)
    assert [KNOWN.verification(rows) for rows in (1, 1.5, 2, 5, 8, 10)] == pytest.approx([1, 1.05, 1.1, 1.4, 1.7, 1.9])
    plan = Plan(attention=frozenset({1, 2}), mlp=frozenset({1}))
    assert KNOWN.step(plan) == pytest.approx(1 - 0.1 - 0.04)
    assert KNOWN.step(FULL.at("int4")) == pytest.approx(0.4)
    assert KNOWN.step(Plan.layers(range(1, 12)).at("int4")) == LEAST_STEP
    assert KNOWN.step(FULL.at("int8")) is None
    assert Expected(32, PASSES[:2], {}).row == pytest.approx(0.1)


def test_the_nearest_context_is_that_of_the_nearest_ratio():
    known = [Expected(context, PASSES, {}) for context in (32, 256, 1024)]
    assert [nearest(known, context).context for context in (1, 80, 100, 500, 520, 9000)] == [
        32,
        32,
        256,
        256,
        1024,
        1024,
    ]
    assert nearest([], 10) is None


def test_costs_are_the_expected_ones_until_they_are_measured():
    costs = Costs(layers=8, expectations=(KNOWN,))
    costs.begin(100)
    plan = Plan.layers([1])
    # Shares of what is not known yet.
    assert not costs.row_known
    assert not costs.step_known(plan)
    costs.observe(None, steps=0, rows=1, kept=1, draft_seconds=0.0, verify_seconds=20.0)
    assert costs.row_known
    assert costs.row_seconds == pytest.approx(2.0)
    assert costs.verification(8) == pytest.approx(34.0)
    assert costs.step_known(plan)
    assert costs.draft_step(plan) == pytest.approx(20 * (1 - 0.09))
    assert costs.draft_step(FULL.at("int4")) == pytest.approx(8.0)
    assert not costs.step_known(FULL.at("int8"))
    assert costs.draft_step(FULL.at("int8")) == 20.0

    # One size beside one row: its pass is as measured, others in proportion, rows as expected.
    costs.observe(plan, steps=1, rows=2, kept=1, draft_seconds=19.0, verify_seconds=33.0)
    assert costs.verification(2) == 33.0
    assert costs.verification(8) == pytest.approx(33 * 1.7 / 1.1)
    assert costs.draft_step(plan) == 19.0
    assert costs.row_seconds == pytest.approx(2.0)
    costs.observe(plan, steps=3, rows=4, kept=1, draft_seconds=57.0, verify_seconds=43.0)
    assert costs.row_seconds == pytest.approx(5.0)


def test_what_is_measured_is_what_the_body_takes(monkeypatch):
    monkeypatch.setattr(expectations, "BUDGET", 1e9)
    body = priced(1)
    short, middle, long = expectations.expectations(body, clock=body.clock)
    assert [one.context for one in (short, middle, long)] == [32, 256, 1024]
    assert dict(short.passes) == pytest.approx({1: 1.0, 2: 1.1, 4: 1.3, 8: 1.7, 16: 2.5})
    # Half of a pass is its layers': 8 of them, two sublayers each.
    assert short.savings[WHOLE].attention == pytest.approx(1 / 32)
    assert short.savings[WHOLE].mlp == pytest.approx(1 / 32)
    assert body.length == 0


def test_it_is_kept_and_read_and_measured_anew_where_it_is_damaged(folder, monkeypatch):
    monkeypatch.setattr(expectations, "BUDGET", 1e9)
    body = priced(1)
    found = expectations.expectations(body, clock=body.clock)
    passes = body.passes
    assert expectations.expectations(body, clock=body.clock) == found
    assert body.passes == passes
    (kept,) = folder.iterdir()
    content = json.loads(kept.read_text())
    bad = ["", "[1]", "{", json.dumps(content)[:-9], "null", json.dumps([content[0] | {"passes": [[2, 1.0]]}])]
    bad += ["\0", "[" * 200_000]
    nan, infinite = float("nan"), float("inf")
    for wrong in ([[1, nan], [2, 1.0]], [[1, 0.0], [2, 1.0]], [[1, 1.0], [infinite, 2.0]], [[1, 1.0], [2, 10**400]]):
        bad.append(json.dumps([content[0] | {"passes": wrong}]))
    bad += [json.dumps([content[0] | {"savings": wrong}]) for wrong in ([], None, {"whole": [0.1]})]
    bad.append(json.dumps([content[0] | {"context": infinite}]))
    for damaged in bad:
        kept.write_text(damaged)
        before = body.passes
        assert expectations.expectations(body, clock=body.clock) == found
        assert body.passes == before + passes
        assert json.loads(kept.read_text()) == content


def test_another_number_of_threads_is_another_machine(folder):
    body = priced(0.001)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            expectations.expectations(body, clock=body.clock)
    finally:
        torch.set_num_threads(threads)
    assert len(list(folder.iterdir())) == 2


def test_no_more_is_measured_than_there_is_time_for():
    # A prompt, a pass over one token and one over eight, and nothing at longer contexts.
    body = priced(1)
    body.flat = 0.51
    (found,) = expectations.expectations(body, clock=body.clock)
    assert [rows for rows, _ in found.passes] == [1, 8]
    assert found.savings == {}
    assert body.clock.now < 2


def test_a_model_too_slow_to_try_is_tried_by_one_pass_and_nothing_is_kept(folder):
    body = priced(1)
    assert expectations.expectations(body, clock=body.clock) == ()
    assert body.passes == 1
    assert not folder.exists()


def test_another_model_of_the_same_embedding_is_measured_by_itself(folder):
    short, long = build(), build()
    short.config.max_position_embeddings = 40
    assert Llm(short).task().costs.expectations == ()
    assert Llm(long).task().costs.expectations


def test_where_nothing_can_be_kept_it_is_measured_every_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CONFLAYERS_CACHE", str(tmp_path / "file" / "cache"))
    body = priced(0.001)
    assert expectations.expectations(body, clock=body.clock)
    passes = body.passes
    assert expectations.expectations(body, clock=body.clock)
    assert body.passes == 2 * passes


def test_a_model_is_measured_by_the_first_task_that_asks_for_it(folder):
    llm = Llm(build())
    assert llm.task("vanilla").costs.expectations == ()
    assert not folder.exists()
    known = llm.task().costs.expectations
    assert [one.context for one in known] == [32, 256]
    assert len(list(folder.iterdir())) == 1
    assert all(one.passes[0] == (1, 1.0) and [rows for rows, _ in one.passes] == [1, 2, 4, 8, 16] for one in known)
    assert WHOLE in known[0].savings
    # Another process reads it.
    assert Llm(build()).task("conflayers").costs.expectations == known


def test_a_model_that_is_generating_is_left_alone_and_measured_later():
    llm, request = Llm(build()), object()
    claim(llm.model, request)
    assert llm.task().costs.expectations == ()
    let_go(llm.model, request)
    assert llm.task().costs.expectations


def test_texts_are_the_same_with_and_without(monkeypatch):
    llm = Llm(build())
    with_it = llm.generate(list(range(20)), max_new_tokens=100).token_ids
    monkeypatch.setattr(Llm, "_expectations", lambda self, precisions: ())
    assert llm.generate(list(range(20)), max_new_tokens=100).token_ids == with_it
