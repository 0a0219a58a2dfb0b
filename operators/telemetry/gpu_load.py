"""A decoder of Llama's shape with random weights, in plain torch: work to measure a GPU with.

No checkpoint is needed, since time and power depend on shapes and on bits that look like a model's, not on
what they say. (On zeros a GPU is faster and draws less, so nothing here is zero.) Kernels are torch's own and
whole steps are CUDA graphs: what an engine adds in scheduling and sampling is not in its times.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_ROPE_BASE = 500_000.0
_NORM_EPSILON = 1e-5
_WEIGHT_STD = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A decoder's sizes; the defaults are Llama-3.1-8B's (its config.json)."""

    name: str = "llama-3.1-8b"
    hidden: int = 4096
    intermediate: int = 14336
    layers: int = 32
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    vocabulary: int = 128_256

    @property
    def parameters(self) -> int:
        """All weights: embedding and head apart, norms left out."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate) + (
            2 * self.vocabulary * self.hidden
        )

    @property
    def kv_token_bytes(self) -> int:
        """Keys and values of one token in bf16, over all layers."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim


TINY = Shape(
    name="tiny", hidden=64, intermediate=128, layers=2, heads=4, kv_heads=2, head_dim=16, vocabulary=256
)
"""To try the program where there is no GPU."""


class Decoder:
    """Weights and a KV cache, and the two kinds of steps that are made with them."""

    def __init__(self, torch: Any, shape: Shape, device: str, kv_tokens: int) -> None:
        """Draw the weights and fill the cache.

        Args:
            torch: the module, imported where it is known to be there.
            shape: sizes.
            device: `cuda` or `cpu`.
            kv_tokens: what the cache holds, over all sequences.
        """
        self._torch = torch
        self.shape = shape
        self._device = device
        self.kv_tokens = kv_tokens
        torch.manual_seed(0)
        query_key_value = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
        self._embedding = self._drawn(shape.vocabulary, shape.hidden)
        self._head = self._drawn(shape.vocabulary, shape.hidden)
        self._norm = torch.ones(shape.hidden, device=device, dtype=torch.bfloat16)
        self._layers = [
            (
                self._drawn(query_key_value, shape.hidden),
                self._drawn(shape.hidden, shape.heads * shape.head_dim),
                self._drawn(2 * shape.intermediate, shape.hidden),
                self._drawn(shape.hidden, shape.intermediate),
            )
            for _ in range(shape.layers)
        ]
        per_layer = kv_tokens * shape.kv_heads * shape.head_dim
        self._cache = [
            tuple(torch.empty(per_layer, device=device, dtype=torch.bfloat16).normal_() for _ in range(2))
            for _ in range(shape.layers)
        ]

    def decode_step(self, sequences: int, context_tokens: int) -> Callable[[], Any]:
        """One token for each of some sequences that have a context already."""
        torch, shape = self._torch, self.shape
        tokens = torch.randint(shape.vocabulary, (sequences,), device=self._device)
        turn = self._rotation(context_tokens - 1, context_tokens)
        used = sequences * context_tokens * shape.kv_heads * shape.head_dim
        caches = [
            tuple(
                half[:used].view(sequences, shape.kv_heads, context_tokens, shape.head_dim) for half in layer
            )
            for layer in self._cache
        ]

        def attend(layer: int, query: Any, key: Any, value: Any) -> Any:
            keys, values = caches[layer]
            keys[:, :, -1] = key
            values[:, :, -1] = value
            # The heads that share keys stand as if they were positions, so the cache is read once for them.
            grouped = query.view(sequences, shape.kv_heads, -1, shape.head_dim)
            return torch.nn.functional.scaled_dot_product_attention(grouped, keys, values)

        def step() -> None:
            hidden = self._through(self._embedding[tokens], turn, attend)
            tokens.copy_(self._next(hidden))

        return step

    def prompt_step(self, prompt_tokens: int) -> Callable[[], Any]:
        """The prompt of one sequence, up to its first output token."""
        torch, shape = self._torch, self.shape
        prompt = torch.randint(shape.vocabulary, (prompt_tokens,), device=self._device)
        first = torch.zeros(1, device=self._device, dtype=prompt.dtype)
        turn = self._rotation(0, prompt_tokens)

        def attend(_layer: int, query: Any, key: Any, value: Any) -> Any:
            query, key, value = (part.transpose(0, 1).unsqueeze(0) for part in (query, key, value))
            found = torch.nn.functional.scaled_dot_product_attention(
                query, key, value, is_causal=True, enable_gqa=True
            )
            return found.squeeze(0).transpose(0, 1)

        def step() -> None:
            hidden = self._through(self._embedding[prompt], turn, attend)
            first.copy_(self._next(hidden[-1:]))

        return step

    def _through(self, hidden: Any, turn: tuple[Any, Any], attend: Callable[..., Any]) -> Any:
        functional, shape = self._torch.nn.functional, self.shape
        rows = hidden.shape[0]
        turned = shape.heads + shape.kv_heads
        for number, (query_key_value, out, gate_up, down) in enumerate(self._layers):
            heads = functional.linear(self._normed(hidden), query_key_value).view(rows, -1, shape.head_dim)
            moved = heads[:, :turned]
            moved = self._torch.addcmul(moved * turn[0], moved.roll(shape.head_dim // 2, -1), turn[1])
            mixed = attend(number, moved[:, : shape.heads], moved[:, shape.heads :], heads[:, turned:])
            hidden = hidden + functional.linear(mixed.reshape(rows, -1), out)
            gate, up = functional.linear(self._normed(hidden), gate_up).chunk(2, dim=-1)
            hidden = hidden + functional.linear(functional.silu(gate) * up, down)
        return hidden

    def _next(self, hidden: Any) -> Any:
        return self._torch.nn.functional.linear(self._normed(hidden), self._head).argmax(-1)

    def _normed(self, hidden: Any) -> Any:
        return self._torch.nn.functional.rms_norm(hidden, (self.shape.hidden,), self._norm, _NORM_EPSILON)

    def _rotation(self, begin: int, end: int) -> tuple[Any, Any]:
        """Cosine and signed sine of rotary positions, one row for each position."""
        torch, half = self._torch, self.shape.head_dim // 2
        exponents = torch.arange(half, device=self._device, dtype=torch.float32) / half
        positions = torch.arange(begin, end, device=self._device, dtype=torch.float32)
        angles = torch.outer(positions, torch.exp(-math.log(_ROPE_BASE) * exponents))
        cosine, sine = angles.cos(), angles.sin()
        return (
            torch.cat((cosine, cosine), -1).unsqueeze(1).to(torch.bfloat16),
            torch.cat((-sine, sine), -1).unsqueeze(1).to(torch.bfloat16),
        )

    def _drawn(self, rows: int, columns: int) -> Any:
        empty = self._torch.empty(rows, columns, device=self._device, dtype=self._torch.bfloat16)
        return empty.normal_(std=_WEIGHT_STD)


def as_graph(torch: Any, step: Callable[[], Any]) -> Callable[[], Any]:
    """The same step as one CUDA graph, so that launching hundreds of small kernels takes no time.

    Without CUDA, the step itself.
    """
    if not torch.cuda.is_available():
        return step
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        # Libraries choose their kernels and take workspaces at the first calls, which a graph must not hold.
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay(_kept: Callable[[], Any] = step) -> None:
        # The graph knows addresses only: the step holds the tensors at them.
        graph.replay()

    return replay
