"""Seconds of one pass, from a model's shape and an accelerator's figures: no pass can be faster."""

import math
from dataclasses import dataclass

from conflayers.errors import InputError
from conflayers.predict.accelerators import Accelerator
from conflayers.predict.names import find
from conflayers.predict.shapes import Shape

# Bytes of a weight of the layers. Embedding, head, keys and values stay in 16 bits. A 4-bit weight shares 32 bits of
# scale and zero with the 128 of its group; products are 16-bit ones in all cases.
WEIGHT_BYTES = {"bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "int4": (4 + 32 / 128) / 8}
STATE_BYTES = 2.0
# Operators that transformers 5.23 runs for one token of a Llama or Qwen2 in 16 bits, views left out, counted by
# dispatch: an attention with its norm, rotation, cache and sum; an MLP with its norm and sum; all that comes before,
# between and after. A device runs about one kernel for each.
KERNELS = {"attention": 26, "mlp": 14, "rest": 23}
# Microseconds of adding up few rows over a handful of devices in one machine.
ALL_REDUCE = 10.0


@dataclass(frozen=True, slots=True)
class Machine:
    """What runs the passes.

    Attributes:
        accelerator: each device.
        devices: how many share every matrix (tensor parallelism), 1 or more.
        dtype: of the layers' weights: a name of `WEIGHT_BYTES`.
        all_reduce: microseconds that adding up over the devices takes, once for every sublayer that runs.

    Raises:
        InputError: an argument out of range.
    """

    accelerator: Accelerator
    devices: int = 1
    dtype: str = "bfloat16"
    all_reduce: float = ALL_REDUCE

    def __post_init__(self) -> None:
        find("dtype", self.dtype, WEIGHT_BYTES)
        if type(self.devices) is not int or self.devices < 1:
            raise InputError(f"devices must be a whole number of 1 or more, not {self.devices!r}")
        if not (math.isfinite(self.all_reduce) and self.all_reduce >= 0):
            raise InputError(f"the all-reduce must take 0 or more microseconds, not {self.all_reduce}")


@dataclass(frozen=True, slots=True)
class PassTime:
    """What a pass cannot go below, in seconds.

    Attributes:
        memory: reading the weights, keys and values once.
        compute: the products.
        launch: launching the kernels one by one.
        exchange: adding up over the devices; nothing else happens meanwhile.
    """

    memory: float
    compute: float
    launch: float
    exchange: float = 0.0

    @property
    def seconds(self) -> float:
        """The longest of the three, which go on at the same time, and the exchange."""
        return max(self.memory, self.compute, self.launch) + self.exchange

    @property
    def bound(self) -> str:
        """Which of the three it is."""
        return max(("memory", "compute", "launch"), key=lambda name: float(getattr(self, name)))


def pass_time(
    shape: Shape, machine: Machine, *, rows: float = 1, context: int = 0, attention: float = 1.0, mlp: float = 1.0
) -> PassTime:
    """The time of one pass.

    Args:
        rows: tokens it runs, above 0; a mean may be broken.
        context: tokens whose keys and values are cached before them, 0 or more.
        attention, mlp: the share of these sublayers that runs, 0 to 1. The head always does.

    Raises:
        InputError: an argument out of range.
    """
    if not (math.isfinite(rows) and rows > 0) or context < 0:
        raise InputError(f"a pass has rows, and a context of 0 or more tokens: not {rows} and {context}")
    for name, share in (("attention", attention), ("MLP", mlp)):
        if not 0 <= share <= 1:
            raise InputError(f"the share of {name} sublayers that run must be from 0 to 1, not {share}")
    each, device = WEIGHT_BYTES[machine.dtype], machine.accelerator
    attentions, mlps = attention * shape.layers, mlp * shape.layers
    weights = each * (attentions * shape.attention_parameters + mlps * shape.mlp_parameters)
    cached = shape.kv_bytes_per_token(STATE_BYTES) * attention * (context + rows)
    outside = STATE_BYTES * (shape.head_parameters + rows * shape.hidden)
    matrices = attentions * shape.attention_matrices + mlps * shape.mlp_matrices + shape.head_parameters
    # Two operations a weight and row; queries times keys, and weights times values, over the context.
    scores = 4 * attentions * shape.heads * shape.head_dim * (context + rows / 2)
    kernels = attentions * KERNELS["attention"] + mlps * KERNELS["mlp"] + KERNELS["rest"]
    return PassTime(
        memory=(weights + cached + outside) / (device.bandwidth * 1e9 * machine.devices),
        compute=rows * (2 * matrices + scores) / (device.tflops * 1e12 * machine.devices),
        launch=kernels * device.launch * 1e-6,
        exchange=(attentions + mlps) * machine.all_reduce * 1e-6 if machine.devices > 1 else 0.0,
    )


def weight_gigabytes(shape: Shape, dtype: str) -> float:
    """GB that the model's weights take."""
    layers = shape.layers * (shape.attention_parameters + shape.mlp_parameters)
    return (WEIGHT_BYTES[dtype] * layers + STATE_BYTES * (shape.parameters - layers)) / 1e9
