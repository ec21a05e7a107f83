"""What a model's shape says about its passes: parameters by part, and bytes of keys and values."""

from dataclasses import dataclass

from conflayers.errors import InputError
from conflayers.predict.names import find


@dataclass(frozen=True, slots=True)
class Shape:
    """A dense decoder of the Llama family: grouped-query attention and a gated MLP of three matrices.

    Attributes:
        name: for people.
        layers, hidden, intermediate, vocab: counts and widths.
        heads, kv_heads, head_dim: of the attention.
        tied: whether the head shares the embedding's weights.
        qkv_bias, o_bias, mlp_bias: whether these products add a bias.
        qk_norm: whether queries and keys are normalised by head.

    Raises:
        InputError: a size that is no positive whole number.
    """

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "intermediate", "heads", "kv_heads", "head_dim", "vocab"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise InputError(f"{self.name}: {name} must be a whole number of 1 or more, not {value!r}")

    @property
    def attention_matrices(self) -> int:
        """Weights of one layer's query, key, value and output projections."""
        return 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)

    @property
    def mlp_matrices(self) -> int:
        """Weights of one layer's gate, up and down projections."""
        return 3 * self.hidden * self.intermediate

    @property
    def attention_parameters(self) -> int:
        """Of one layer's attention with its norm."""
        biases = self.qkv_bias * (self.heads + 2 * self.kv_heads) * self.head_dim + self.o_bias * self.hidden
        return self.attention_matrices + biases + self.qk_norm * 2 * self.head_dim + self.hidden

    @property
    def mlp_parameters(self) -> int:
        """Of one layer's MLP with its norm."""
        return self.mlp_matrices + self.mlp_bias * (2 * self.intermediate + self.hidden) + self.hidden

    @property
    def head_parameters(self) -> int:
        """Of the matrix that makes logits; a tied one is the embedding."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        layer = self.attention_parameters + self.mlp_parameters
        return self.layers * layer + self.head_parameters * (1 if self.tied else 2) + self.hidden

    def kv_bytes_per_token(self, bytes_each: float = 2.0) -> float:
        """Bytes of keys and values that all layers keep of one token."""
        return 2 * self.layers * self.kv_heads * self.head_dim * bytes_each


def _llama(name: str, layers: int, hidden: int, intermediate: int, heads: int, kv: int, vocab: int = 32000) -> Shape:
    return Shape(name, layers, hidden, intermediate, heads, kv, hidden // heads, vocab)


def _qwen(
    name: str, layers: int, hidden: int, intermediate: int, heads: int, kv: int, vocab: int = 152064, tied: bool = False
) -> Shape:
    return Shape(name, layers, hidden, intermediate, heads, kv, hidden // heads, vocab, tied, qkv_bias=True)


def _qwen3(name: str, layers: int, hidden: int, intermediate: int, heads: int, tied: bool = False) -> Shape:
    return Shape(name, layers, hidden, intermediate, heads, 8, 128, 151936, tied, qk_norm=True)


# From the config.json of each checkpoint.
SHAPES = {
    shape.name: shape
    for shape in (
        _llama("llama-2-7b", 32, 4096, 11008, 32, 32),
        _llama("llama-2-13b", 40, 5120, 13824, 40, 40),
        _llama("llama-2-70b", 80, 8192, 28672, 64, 8),
        _llama("llama-3-8b", 32, 4096, 14336, 32, 8, 128256),
        _llama("llama-3-70b", 80, 8192, 28672, 64, 8, 128256),
        _llama("llama-3-405b", 126, 16384, 53248, 128, 8, 128256),
        Shape("llama-3.2-1b", 16, 2048, 8192, 32, 8, 64, 128256, tied=True),
        Shape("llama-3.2-3b", 28, 3072, 8192, 24, 8, 128, 128256, tied=True),
        _llama("codellama-7b", 32, 4096, 11008, 32, 32, 32016),
        _llama("codellama-13b", 40, 5120, 13824, 40, 40, 32016),
        _llama("codellama-34b", 48, 8192, 22016, 64, 8),
        _llama("mistral-7b", 32, 4096, 14336, 32, 8, 32768),
        _qwen("qwen2.5-0.5b", 24, 896, 4864, 14, 2, 151936, tied=True),
        _qwen("qwen2.5-1.5b", 28, 1536, 8960, 12, 2, 151936, tied=True),
        _qwen("qwen2.5-3b", 36, 2048, 11008, 16, 2, 151936, tied=True),
        _qwen("qwen2.5-7b", 28, 3584, 18944, 28, 4),
        _qwen("qwen2.5-14b", 48, 5120, 13824, 40, 8),
        _qwen("qwen2.5-32b", 64, 5120, 27648, 40, 8),
        _qwen("qwen2.5-72b", 80, 8192, 29568, 64, 8),
        _qwen("qwen2.5-math-1.5b", 28, 1536, 8960, 12, 2, 151936, tied=True),
        _qwen("qwen2.5-math-7b", 28, 3584, 18944, 28, 4),
        _qwen("qwen2.5-math-72b", 80, 8192, 29568, 64, 8),
        _qwen3("qwen3-4b", 36, 2560, 9728, 32, tied=True),
        _qwen3("qwen3-8b", 36, 4096, 12288, 32),
        _qwen3("qwen3-14b", 40, 5120, 17408, 40),
        _qwen3("qwen3-32b", 64, 5120, 25600, 64),
        Shape("smollm2-135m", 30, 576, 1536, 9, 3, 64, 49152, tied=True),
        Shape("smollm2-360m", 32, 960, 2560, 15, 5, 64, 49152, tied=True),
        Shape("smollm2-1.7b", 24, 2048, 8192, 32, 32, 64, 49152, tied=True),
    )
}

# Later releases of the same shape.
ALIASES = {"llama-3.1-8b": "llama-3-8b", "llama-3.1-70b": "llama-3-70b", "llama-3.1-405b": "llama-3-405b"}
ALIASES |= {"llama-3.3-70b": "llama-3-70b", "smollm2": "smollm2-135m"}


def named_shape(name: str) -> Shape:
    """A shape of the table, whatever the case of its name.

    Raises:
        InputError: there is none; the message has the nearest names.
    """
    given = name.strip().lower()
    return find("model", ALIASES.get(given, given), SHAPES, "or give a folder with a config.json")
