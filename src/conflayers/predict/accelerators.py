"""Accelerators by name: what their makers' datasheets promise, and what launching a kernel costs."""

import math
from dataclasses import dataclass, replace

from conflayers.errors import InputError
from conflayers.predict.names import find

# Microseconds from one kernel to the next where PyTorch runs a model operator by operator. It is the host that needs
# them, and so they are the same for every accelerator here. Reported eager steps over the operators that
# `roofline.KERNELS` counts for them: 6.4 for Llama-3.1-8B on an H100 SXM (8.4 ms), 11.6 for LLaMA-2-13B in the logs of
# ConfLayers' released code, 21 for SmolLM2-135M (39 tokens/s). All are upper bounds, for a step does more than launch;
# this is near the lowest. A captured graph has next to none.
EAGER_LAUNCH = 6.0


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One device.

    Attributes:
        name: for people.
        bandwidth: of its memory, GB/s.
        tflops: TFLOP/s of dense 16-bit products accumulated in 32 bits, without sparsity.
        memory: GB; None if not known.
        launch: microseconds a kernel takes the host at least, one after another; 0 for captured graphs.

    Raises:
        InputError: a figure that is not positive, or a negative launch.
    """

    name: str
    bandwidth: float
    tflops: float
    memory: float | None = None
    launch: float = EAGER_LAUNCH

    def __post_init__(self) -> None:
        for name, unit in (("bandwidth", "GB/s"), ("tflops", "TFLOP/s")):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} must be a number of {unit} above 0, not {value}")
        if not (math.isfinite(self.launch) and self.launch >= 0):
            raise InputError(f"launch must be 0 or more microseconds, not {self.launch}")


# Public datasheets. A100 and A800: 80 GB as SXM. GeForce: products accumulated in 32 bits, which are half as fast there
# as the figure that is often quoted. Apple: 16-bit products run at the GPU's 32-bit rate; Apple gives that of the M2
# Ultra, the one of the M3 Max is cores times clock.
ACCELERATORS = {
    device.name: device
    for device in (
        Accelerator("a100-40gb", 1555, 312, 40),
        Accelerator("a100-80gb", 2039, 312, 80),
        Accelerator("a800", 2039, 312, 80),
        Accelerator("h100-sxm", 3350, 989, 80),
        Accelerator("h100-pcie", 2000, 756, 80),
        Accelerator("h200", 4800, 989, 141),
        Accelerator("l4", 300, 121, 24),
        Accelerator("l40s", 864, 362, 48),
        Accelerator("a6000", 768, 155, 48),
        Accelerator("rtx-3090", 936, 71, 24),
        Accelerator("rtx-4090", 1008, 165, 24),
        Accelerator("mi300x", 5300, 1307, 192),
        Accelerator("m2-ultra", 800, 27.2, 192),
        Accelerator("m3-max", 400, 14.2, 128),
    )
}


def accelerator(
    name: str | None = None, bandwidth: float | None = None, tflops: float | None = None, launch: float | None = None
) -> Accelerator:
    """An accelerator by name, or by its figures; `launch` says for both what launching a kernel costs.

    Raises:
        InputError: no such name, a figure out of range, a name and figures both given, or too little of them.
    """
    if name is None and bandwidth is not None and tflops is not None:
        return Accelerator("as given", bandwidth, tflops, launch=EAGER_LAUNCH if launch is None else launch)
    if name is None or bandwidth is not None or tflops is not None:
        raise InputError("give an accelerator by name, or its bandwidth and TFLOP/s")
    device = named_accelerator(name)
    return device if launch is None else replace(device, launch=launch)


def named_accelerator(name: str) -> Accelerator:
    """An accelerator of the table, whatever the case of its name; spaces and underscores may stand for the hyphens.

    Raises:
        InputError: there is none; the message has the nearest names.
    """
    given = name.strip().lower().replace(" ", "-").replace("_", "-")
    return find("accelerator", given, ACCELERATORS, "or give --bandwidth and --tflops")
