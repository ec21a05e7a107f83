"""A pass and a layer as the compiled kernels know them."""

import ctypes

from conflayers.body.products import Plain, Record, Rounded
from conflayers.body.weights import Form

_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_int64


class Layer(ctypes.Structure):
    """See `Layer` in pass.h."""

    _fields_ = (
        *((name, _POINTER) for name in ("norm", "mlp_norm", "q_norm", "k_norm")),
        *((name, Record) for name in ("qkv", "out", "gate_up", "down")),
        ("rotated", _COUNT),
    )


class PassRecord(ctypes.Structure):
    """See `Pass` in pass.h."""

    _fields_ = (
        *((name, _COUNT) for name in ("layers", "tokens", "length", "wanted", "threads")),
        *((name, _COUNT) for name in ("hidden", "inner", "heads", "kv_heads", "width", "stride", "traced")),
        ("eps", ctypes.c_double),
        *((name, _POINTER) for name in ("layer", "keys", "values", "runs", "norm", "head")),
        *((name, _POINTER) for name in ("embedding", "ids", "positions", "cos", "sin", "bias")),
        ("biases", _COUNT),
        *((name, _POINTER) for name in ("trace", "logits", "best", "probabilities", "seconds", "times", "scratch")),
    )


def records(form: Form) -> "tuple[ctypes.Array[Layer], Record]":
    """A form's layers and head as the kernels know them."""
    layers = (Layer * len(form.layers))()
    for made, layer in zip(layers, form.layers, strict=True):
        made.norm, made.mlp_norm = layer.norm.weight.data_ptr(), layer.mlp_norm.weight.data_ptr()
        if layer.head_norms:
            made.q_norm, made.k_norm = (norm.weight.data_ptr() for norm in layer.head_norms)
        made.qkv, made.out = _record_of(layer.qkv), _record_of(layer.out)
        made.gate_up, made.down = _record_of(layer.gate_up), _record_of(layer.down)
        made.rotated = layer.rotated
    return layers, _record_of(form.head)


def _record_of(product: object) -> Record:
    assert isinstance(product, Plain | Rounded)
    return product.record
