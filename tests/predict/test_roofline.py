from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from conflayers.errors import InputError
from conflayers.predict.accelerators import ACCELERATORS, EAGER_LAUNCH, Accelerator, accelerator, named_accelerator
from conflayers.predict.roofline import KERNELS, Machine, PassTime, pass_time, weight_gigabytes
from conflayers.predict.shapes import SHAPES, Shape

# 1 GB/s and 1 TFLOP/s, so that bytes are nanoseconds and operations picoseconds.
UNIT = Accelerator("unit", 1, 1, launch=0)
SMALL = Shape("small", 2, hidden=8, intermediate=16, heads=4, kv_heads=2, head_dim=3, vocab=10)
# Of one layer: attention 288 + 8, MLP 384 + 8; the head has 80.


def test_memory_by_hand():
    one = pass_time(SMALL, Machine(UNIT))
    # 16-bit weights of two layers and the head, an embedding row, and keys and values (2 x 2 x 3) of one token a layer.
    assert one.memory == pytest.approx((2 * 2 * (296 + 392) + 2 * (80 + 8) + 2 * 12 * 2) * 1e-9)
    later = pass_time(SMALL, Machine(UNIT), rows=3, context=100)
    assert later.memory - one.memory == pytest.approx((2 * 2 * 8 + 102 * 2 * 12 * 2) * 1e-9)


def test_what_is_skipped_is_not_read_and_the_head_is():
    none = pass_time(SMALL, Machine(UNIT), context=100, attention=0, mlp=0)
    assert none.memory == pytest.approx(2 * (80 + 8) * 1e-9)
    assert none.compute == pytest.approx(2 * 80 * 1e-12)
    half = pass_time(SMALL, Machine(UNIT), context=99, attention=0.5)
    # One attention of two, and its half of the cache.
    assert half.memory == pytest.approx((2 * (296 + 2 * 392) + 2 * 88 + 100 * 12 * 2) * 1e-9)


def test_compute_by_hand():
    found = pass_time(SMALL, Machine(UNIT), rows=4, context=10)
    # Two operations a weight and row; 4 x 12 for every position seen, 12 of them on average.
    assert found.compute == pytest.approx(4 * (2 * (2 * (288 + 384) + 80) + 2 * 4 * 12 * 12) * 1e-12)


def test_launches_by_hand():
    launching = Accelerator("launching", 1e6, 1e6, launch=5)
    found = pass_time(SMALL, Machine(launching), attention=0.5)
    assert found.launch == pytest.approx((1 * 26 + 2 * 14 + 23) * 5e-6)
    assert (found.seconds, found.bound) == (found.launch, "launch")


def test_quantised_weights_leave_head_and_cache_in_16_bits():
    fixed = 2 * 88 + 2 * 12 * 2
    layers = 2 * (296 + 392)
    assert pass_time(SMALL, Machine(UNIT, dtype="int8")).memory == pytest.approx((layers + fixed) * 1e-9)
    assert pass_time(SMALL, Machine(UNIT, dtype="int4")).memory == pytest.approx((layers * 0.53125 + fixed) * 1e-9)
    assert weight_gigabytes(SHAPES["llama-2-7b"], "float16") == pytest.approx(2 * 6.738, rel=1e-3)


def test_devices_share_and_add_up():
    alone = pass_time(SMALL, Machine(UNIT), rows=2, context=7)
    shared = pass_time(SMALL, Machine(UNIT, devices=4, all_reduce=10), rows=2, context=7, mlp=0.5)
    half = pass_time(SMALL, Machine(UNIT), rows=2, context=7, mlp=0.5)
    assert shared.memory == pytest.approx(half.memory / 4)
    assert shared.compute == pytest.approx(half.compute / 4)
    assert shared.exchange == pytest.approx(3 * 10e-6)
    assert alone.exchange == 0


def test_a_pass_takes_the_longest_and_the_exchange():
    assert PassTime(3, 2, 1, 0.5).seconds == 3.5
    assert PassTime(3, 2, 1).bound == "memory"
    assert PassTime(1, 2, 1, 5).bound == "compute"


def test_a_70b_step_reads_its_weights_at_the_bandwidth():
    found = pass_time(SHAPES["llama-3-70b"], Machine(ACCELERATORS["h100-sxm"]))
    # All but the embedding, which is looked up: 70.55e9 less 1.05e9 weights of two bytes at 3,350 GB/s.
    assert found.seconds == pytest.approx(2 * 69.5e9 / 3350e9, rel=1e-3)
    assert found.bound == "memory"


def test_many_rows_turn_over_to_compute():
    machine = Machine(ACCELERATORS["h100-sxm"])
    bounds = [pass_time(SHAPES["llama-3-70b"], machine, rows=rows).bound for rows in (1, 8, 200, 400)]
    # 989e12 operations for 3350e9 bytes: two operations and two bytes a weight turn over at 295 rows.
    assert bounds == ["memory", "memory", "memory", "compute"]


@given(
    st.sampled_from(sorted(SHAPES)),
    st.sampled_from(sorted(ACCELERATORS)),
    st.integers(1, 64),
    st.integers(0, 8000),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_more_work_never_takes_less(model, device, rows, context, attention, mlp):
    shape, machine = SHAPES[model], Machine(ACCELERATORS[device])
    some = pass_time(shape, machine, rows=rows, context=context, attention=attention, mlp=mlp).seconds
    assert 0 < some <= pass_time(shape, machine, rows=rows, context=context).seconds * (1 + 1e-12)
    for more in ({"rows": rows + 1, "context": context}, {"rows": rows, "context": context + 500}):
        assert some <= pass_time(shape, machine, attention=attention, mlp=mlp, **more).seconds


VIEWS = {"view", "_unsafe_view", "t", "transpose", "unsqueeze", "expand", "slice", "select", "alias", "detach"}


class Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.split("::")[1]
        self.names[name] += name not in VIEWS
        return function(*args, **kwargs or {})


def operators_of_a_step(layers: int) -> int:
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).bfloat16().eval()
    with torch.no_grad():
        cache = model(torch.tensor([[1, 2, 3]]), use_cache=True).past_key_values
        with Operators() as counted:
            model(torch.tensor([[4]]), past_key_values=cache)
    return counted.names.total()


def test_kernels_are_about_the_operators_of_an_eager_step():
    two, three = operators_of_a_step(2), operators_of_a_step(3)
    # Another release of transformers may fuse a few; then the table is due for a new count.
    assert three - two == pytest.approx(KERNELS["attention"] + KERNELS["mlp"], rel=0.25)
    assert 3 * two - 2 * three == pytest.approx(KERNELS["rest"], rel=0.6)


def test_accelerators_by_name_and_by_figures():
    assert named_accelerator("H100 SXM") is ACCELERATORS["h100-sxm"]
    assert accelerator("l4", launch=0) == Accelerator("l4", 300, 121, 24, launch=0)
    assert accelerator(bandwidth=100, tflops=2) == Accelerator("as given", 100, 2, launch=EAGER_LAUNCH)
    with pytest.raises(InputError, match=r"'h100'.*h100-sxm.*--bandwidth"):
        named_accelerator("h100")


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: accelerator(), "by name"),
        (lambda: accelerator("l4", bandwidth=3), "by name"),
        (lambda: accelerator(bandwidth=3), "by name"),
        (lambda: accelerator(bandwidth=0, tflops=1), "bandwidth"),
        (lambda: accelerator("l4", launch=-1), "launch"),
        (lambda: Machine(UNIT, devices=0), "devices"),
        (lambda: Machine(UNIT, dtype="bf16"), "bfloat16"),
        (lambda: Machine(UNIT, all_reduce=float("nan")), "all-reduce"),
        (lambda: pass_time(SMALL, Machine(UNIT), rows=0), "rows"),
        (lambda: pass_time(SMALL, Machine(UNIT), context=-1), "context"),
        (lambda: pass_time(SMALL, Machine(UNIT), mlp=1.5), "MLP"),
    ],
)
def test_what_is_out_of_range_is_named(call, named):
    with pytest.raises(InputError, match=named):
        call()
