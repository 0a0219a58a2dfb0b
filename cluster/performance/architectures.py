"""Models by their shape, from which speed and memory are predicted. Figures are those of each config."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The shape of a model."""

    name: str
    parameters: float
    """All weights."""
    parameters_active: float
    """Weights that one token is multiplied with: fewer than all in a mixture of experts."""
    layers: int
    kv_heads: int
    head_dim: int
    weight_bytes: float = 2.0
    """Of one weight: 2 in bf16."""
    kv_bytes: float = 2.0
    """Of one key or value."""

    @property
    def kv_token_bytes(self) -> float:
        """KV cache of one token over all layers: keys and values."""
        return 2.0 * self.layers * self.kv_heads * self.head_dim * self.kv_bytes

    @property
    def weights_bytes(self) -> float:
        """All weights."""
        return self.parameters * self.weight_bytes

    @property
    def is_dense(self) -> bool:
        """Whether every token uses every weight."""
        return self.parameters_active >= self.parameters


def _dense(name: str, billions: float, layers: int, kv_heads: int, head_dim: int) -> ModelSpec:
    return ModelSpec(
        name=name,
        parameters=billions * 1e9,
        parameters_active=billions * 1e9,
        layers=layers,
        kv_heads=kv_heads,
        head_dim=head_dim,
    )


def _experts(
    name: str, billions: tuple[float, float], layers: int, kv_heads: int, head_dim: int
) -> ModelSpec:
    return ModelSpec(
        name=name,
        parameters=billions[0] * 1e9,
        parameters_active=billions[1] * 1e9,
        layers=layers,
        kv_heads=kv_heads,
        head_dim=head_dim,
    )


_SPECS = (
    _dense("smollm2-135m", 0.135, 30, 3, 64),
    _dense("qwen3-0.6b", 0.6, 28, 8, 128),
    _dense("gemma-2-2b", 2.6, 26, 4, 256),
    _dense("starcoder2-3b", 3.0, 30, 2, 128),
    _dense("phi-3-mini", 3.8, 32, 32, 96),
    _dense("llama-2-7b", 6.7, 32, 32, 128),
    _dense("codellama-7b", 6.7, 32, 32, 128),
    _dense("mistral-7b", 7.25, 32, 8, 128),
    _dense("starcoder2-7b", 7.2, 32, 4, 128),
    _dense("phi-3-small", 7.4, 32, 8, 128),
    _dense("llama-3.1-8b", 8.03, 32, 8, 128),
    _dense("qwen3-8b", 8.2, 36, 8, 128),
    _dense("codegemma-7b", 8.5, 28, 16, 256),
    _dense("gemma-2-9b", 9.2, 42, 8, 256),
    _dense("gemma-3-12b", 12.2, 48, 8, 256),
    _dense("mistral-nemo-12b", 12.2, 40, 8, 128),
    _dense("codellama-13b", 13.0, 40, 40, 128),
    _dense("phi-3-medium", 14.0, 40, 10, 128),
    _dense("qwen3-14b", 14.8, 40, 8, 128),
    _dense("starcoder2-15b", 16.0, 40, 4, 128),
    _dense("gemma-2-27b", 27.2, 46, 16, 128),
    _dense("gemma-3-27b", 27.4, 62, 16, 128),
    _dense("qwen3-32b", 32.8, 64, 8, 128),
    _dense("codellama-34b", 33.7, 48, 8, 128),
    _dense("llama-2-70b", 69.0, 80, 8, 128),
    _dense("codellama-70b", 69.0, 80, 8, 128),
    _dense("llama-3.1-70b", 70.6, 80, 8, 128),
    _dense("llama-3.3-70b", 70.6, 80, 8, 128),
    _experts("qwen3-30b-a3b", (30.5, 3.3), 48, 4, 128),
    _experts("mixtral-8x7b", (46.7, 12.9), 32, 8, 128),
)
ARCHITECTURES = {spec.name: spec for spec in _SPECS}


def model_spec(name: str) -> ModelSpec | None:
    """The shape of a model by its catalogue name, whatever its case; None if it is not known."""
    return ARCHITECTURES.get(name.lower())
