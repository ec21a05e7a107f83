"""What an accelerator runs, here: its kernels in Triton's interpreter, and what needs none."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from conflayers.body.fast import FastBody
from conflayers.body.graphs import launches, products
from conflayers.body.sight import Sight
from conflayers.body.trees import replay_mask, tree_mask

PARENTS = [-1, 0, 0, 1, -1, 4]


def sees(sight: Sight) -> torch.Tensor:
    """Which columns each token sees, by the lists that an accelerator is given."""
    found = torch.zeros(len(sight.behind), sight.length + len(sight.behind), dtype=torch.bool)
    for row, base, behind in zip(found, sight.based, sight.behind, strict=True):
        row[:base] = True
        row[[sight.length + token for token in behind]] = True
    return found


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is for Linux")
def test_kernels_do_in_the_interpreter_what_torch_does() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).with_name("graphs"))]
    environment = {**os.environ, "TRITON_INTERPRET": "1", launches.INTERPRETER: "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "19 passed" in done.stdout


def test_what_a_tree_sees_is_its_mask() -> None:
    sight = Sight.tree(7, PARENTS)
    assert sight.positions == [7, 8, 8, 9, 7, 8]
    assert sees(sight).tolist() == (tree_mask(PARENTS, 7, None, torch.float32)[0, 0] == 0).tolist()
    assert list(sight.behind[3]) == [0, 1, 3]


def test_what_a_replay_sees_is_its_mask() -> None:
    sight = Sight.replay(9, 4)
    assert sight.positions == [5, 6, 7, 8]
    assert sees(sight).tolist() == (replay_mask(4, 9, None, torch.float32)[0, 0] == 0).tolist()


def test_masks_are_the_same_whatever_torch_makes_by_default() -> None:
    wanted, usual = Sight.tree(7, PARENTS).bias(), torch.get_default_dtype()
    try:
        for kind in (torch.float64, torch.bfloat16):
            torch.set_default_dtype(kind)
            assert torch.equal(Sight.tree(7, PARENTS).bias(), wanted)
    finally:
        torch.set_default_dtype(usual)
    assert wanted.dtype == torch.float32


def test_a_text_needs_no_mask() -> None:
    sight = Sight.chain(5, 3)
    assert (sight.positions, sight.bias()) == ([5, 6, 7], None)


def test_without_an_accelerator_they_are_not_offered() -> None:
    weight = torch.zeros(64, 64, dtype=torch.bfloat16)
    assert "cpu" in launches.why_not(weight.device) or "Triton" in launches.why_not(weight.device)
    assert products.why_not(weight) == launches.why_not(weight.device)


@pytest.mark.parametrize("group", [128, 64, 32])
def test_four_bits_are_near_what_they_stand_for(group: int) -> None:
    weight = torch.randn(16, 2 * group, generator=torch.Generator().manual_seed(0)).bfloat16()
    # A group of zeros has no scale to divide by.
    weight[3] = 0
    matrix = products.int4(products.Linear(weight, None))
    assert (matrix.group, matrix.outs, matrix.ins) == (group, 16, 2 * group)
    both, scales = matrix.weight[0].int(), matrix.scales.float()
    halves = [(both & 15) - 8, (both >> 4) - 8]
    read = torch.cat([half * scales[at][:, None] for at, half in enumerate(halves)], 1)
    # Half a step of the group's largest number over 8, and of the scale's own rounding.
    steps = weight.float().view(16, 2, group).abs().amax(-1).repeat_interleave(group, 1) / 8
    assert bool(((read - weight.float()).abs() <= 1.05 * steps).all())
    assert bool((read[3] == 0).all())
    assert float((read - weight.float()).norm() / weight.float().norm()) < 0.13


class Uncompiled:
    """Short passes whose kernels turn out not to be for this machine."""

    recorded = True

    def runs(self, form: object) -> bool:
        return True

    def steady(self, form: object) -> bool:
        raise RuntimeError("what the compiler was given\nno C compiler was found")


def test_kernels_that_cannot_be_compiled_are_given_up_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4
    )
    model = LlamaForCausalLM(config).eval()
    monkeypatch.setattr(FastBody, "_passes", lambda self, weights, compiled: Uncompiled())
    body = FastBody(model)
    assert body.why_not_compiled == "RuntimeError: no C compiler was found"
    body.reserve(16)
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=False).logits[0]
    assert torch.allclose(body.forward([1, 2, 3]).logits, wanted, atol=1e-4)
