"""What the flavours' vector fields are made of. Pure functions, no parameters.

Weights come as a flat dictionary. A projection ``name`` is y = x Wᵀ + b from ``{name}_weight`` [out, in]
and, where there is one, ``{name}_bias`` [out]; where the dictionary also holds the low-rank pair
``{name}_lora_a`` [r, in] and ``{name}_lora_b`` [out, r], y gains (x Aᵀ) Bᵀ: the full-size ΔW is never
formed. With several pairs [J, r, in] and [J, out, r] each of J equal parts of the batch has its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from odeformer.config import ModelConfig
from odeformer.field.adapted import adapted_linear

BlockWeights = dict[str, Tensor]
"""One block's tensors by name; or those of M blocks, every tensor stacked to [M, ...]."""


def by_cell(weights: Mapping[str, Iterable[Tensor]], nodes: int) -> list[list[BlockWeights]]:
    """For each cell the block's tensors at its ``nodes`` times, out of those at all times [M, ...]."""
    # Iterating over a tensor unbinds it: its backward is one stack, where each index would fill a tensor of
    # all cells.
    at_times = [dict(zip(weights, tensors, strict=True)) for tensors in zip(*weights.values(), strict=True)]
    return [at_times[first : first + nodes] for first in range(0, len(at_times), nodes)]


class Heads(NamedTuple):
    """What attention mixes: each [batch, heads, tokens, head width], queries and keys rotated by position.

    Keys and values may have fewer heads, each for a group of the queries'.
    """

    query: Tensor
    key: Tensor
    value: Tensor


class Field(Protocol):
    """What a solver may ask of a vector field: dx/dt = speed · field(x, w)."""

    @property
    def speed(self) -> float: ...
    def part(self, first: int, last: int) -> Field: ...
    def heads(self, x: Tensor, w: BlockWeights) -> Heads: ...
    def attention(self, x: Tensor, w: BlockWeights) -> Tensor: ...
    def feed_forward(self, x: Tensor, w: BlockWeights) -> Tensor: ...
    def __call__(self, x: Tensor, w: BlockWeights) -> Tensor: ...


@dataclass(frozen=True)
class TensorSpec:
    """Shape and initialisation of one of the block's tensors."""

    shape: tuple[int, ...]
    mean: float = 0.0
    std: float = 0.0


def reading_std(config: ModelConfig) -> float:
    """√(2 / 5d), for matrices that read the residual stream (Nguyen and Salazar 2019; GPT-NeoX)."""
    return math.sqrt(2 / (5 * config.width))


def writing_std(config: ModelConfig) -> float:
    """2 / (D √d), for matrices that write to the residual stream (Wang and Komatsuzaki 2021; GPT-NeoX)."""
    return 2 / (config.depth * math.sqrt(config.width))


def project(x: Tensor, w: BlockWeights, name: str) -> Tensor:
    """y = x Wᵀ + b, plus the low-rank pair where there is one. x [batch, ..., in] → y [batch, ..., out]."""
    weight, bias = w[f"{name}_weight"], w.get(f"{name}_bias")
    if f"{name}_lora_a" not in w:
        return F.linear(x, weight, bias)
    return adapted_linear(x, weight, bias, w[f"{name}_lora_a"], w[f"{name}_lora_b"])


def layer_norm(x: Tensor, w: BlockWeights, name: str, epsilon: float) -> Tensor:
    """LayerNorm over the last dimension."""
    return F.layer_norm(x, x.shape[-1:], w[f"{name}_weight"], w[f"{name}_bias"], epsilon)


def rms_norm(x: Tensor, w: BlockWeights, name: str, epsilon: float) -> Tensor:
    """RMSNorm over the last dimension."""
    return F.rms_norm(x, x.shape[-1:], w[f"{name}_weight"], epsilon)


def rotary_table(config: ModelConfig, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin [length, rotary dimensions] of rotary positions (Su et al. 2021), in ``like``'s dtype."""
    dimensions = config.rotary_dimensions
    # bf16 has no odd numbers above 256: positions would fall together.
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    exponents = torch.arange(0, dimensions, 2, dtype=dtype, device=like.device) / dimensions
    positions = torch.arange(length, dtype=dtype, device=like.device)
    angles = positions[:, None] * config.rotary_base**-exponents
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def attend(heads: Heads, w: BlockWeights, dropout: float = 0.0, mask: Tensor | None = None) -> Tensor:
    """Causal attention, or by a mask (see :func:`document_mask`), and its output projection.

    Returns [batch, tokens, width].
    """
    query, key, value = heads
    grouped = key.shape[1] < query.shape[1]
    mixed = F.scaled_dot_product_attention(
        query, key, value, mask, is_causal=mask is None, dropout_p=dropout, enable_gqa=grouped
    )
    return project(join_heads(mixed), w, "out")


def document_mask(documents: Tensor) -> Tensor:
    """What each token sees: those before it in its own document, and itself.

    documents [batch, tokens], a number for each token's document → bool [batch, 1, tokens, tokens].
    """
    length = documents.shape[1]
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return same & torch.ones(length, length, dtype=torch.bool, device=documents.device).tril()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first dimensions of each head by position. x [..., tokens, head width]."""
    dimensions = cos.shape[-1]
    turned, kept = x[..., :dimensions], x[..., dimensions:]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([turned.to(kept.dtype), kept], dim=-1)


def alone(value: Tensor) -> Tensor:
    """The values in memory of their own, where a backward pass will keep them: else they would keep queries
    and keys from before their rotation as well."""
    return value.contiguous() if value.requires_grad else value


def join_heads(x: Tensor) -> Tensor:
    """[batch, heads, tokens, head width] → [batch, tokens, heads · head width]."""
    return x.transpose(1, 2).flatten(2)
