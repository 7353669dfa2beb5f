"""Building blocks of the vector fields: projections, norms, rotary embedding, attention. Pure functions.

The weights of a block are a flat dictionary. A projection ``name`` is y = x Wᵀ + b with ``{name}_weight``
[out, in] and, optionally, ``{name}_bias`` [out]. If the dictionary also holds a LoRA pair, ``{name}_lora_a``
[r, in] and ``{name}_lora_b`` [out, r], (x Aᵀ) Bᵀ is added; ΔW = B A is never formed. With shapes [J, r, in]
and [J, out, r], each of J equal parts of the batch has its own pair.
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
"""The tensors of one block by name; or of M blocks, each tensor stacked to [M, ...]."""


def by_cell(weights: Mapping[str, Iterable[Tensor]], nodes: int) -> list[list[BlockWeights]]:
    """Stacked weights [M, ...] as a list over cells of lists over its ``nodes`` nodes."""
    # Iterating unbinds a tensor, whose backward is a single stack; the backward of indexing would allocate a
    # tensor of all cells for every cell.
    at_times = [dict(zip(weights, tensors, strict=True)) for tensors in zip(*weights.values(), strict=True)]
    return [at_times[first : first + nodes] for first in range(0, len(at_times), nodes)]


class Heads(NamedTuple):
    """Queries, keys and values of attention, each [batch, heads, tokens, head width].

    Keys and values may have fewer heads than queries (grouped-query attention).
    """

    query: Tensor
    key: Tensor
    value: Tensor


class Field(Protocol):
    """The interface of vector fields that solvers use: dx/dt = speed · field(x, w)."""

    @property
    def speed(self) -> float: ...
    def part(self, first: int, last: int) -> Field: ...
    def heads(self, x: Tensor, w: BlockWeights) -> Heads: ...
    def attention(self, x: Tensor, w: BlockWeights) -> Tensor: ...
    def feed_forward(self, x: Tensor, w: BlockWeights) -> Tensor: ...
    def __call__(self, x: Tensor, w: BlockWeights) -> Tensor: ...


@dataclass(frozen=True)
class TensorSpec:
    """Shape, initial mean and initial standard deviation of one of the block's tensors."""

    shape: tuple[int, ...]
    mean: float = 0.0
    std: float = 0.0


def reading_std(config: ModelConfig) -> float:
    """Initial std √(2 / 5d) of matrices that read the residual stream (Nguyen and Salazar 2019; GPT-NeoX)."""
    return math.sqrt(2 / (5 * config.width))


def writing_std(config: ModelConfig) -> float:
    """Initial std 2 / (D √d) of matrices that write to the residual stream (Wang and Komatsuzaki 2021)."""
    return 2 / (config.depth * math.sqrt(config.width))


def project(x: Tensor, w: BlockWeights, name: str) -> Tensor:
    """The projection ``name``, with its LoRA pair if there is one: [batch, ..., in] → [batch, ..., out]."""
    weight, bias = w[f"{name}_weight"], w.get(f"{name}_bias")
    if f"{name}_lora_a" not in w:
        return F.linear(x, weight, bias)
    return adapted_linear(x, weight, bias, w[f"{name}_lora_a"], w[f"{name}_lora_b"])


def layer_norm(x: Tensor, w: BlockWeights, name: str, epsilon: float) -> Tensor:
    """LayerNorm over the last dimension with the weight and bias of ``name``."""
    return F.layer_norm(x, x.shape[-1:], w[f"{name}_weight"], w[f"{name}_bias"], epsilon)


def rms_norm(x: Tensor, w: BlockWeights, name: str, epsilon: float) -> Tensor:
    """RMSNorm over the last dimension with the weight of ``name``."""
    return F.rms_norm(x, x.shape[-1:], w[f"{name}_weight"], epsilon)


def rotary_table(config: ModelConfig, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines [length, rotary dimensions], in the dtype and on the device of ``like``."""
    dimensions = config.rotary_dimensions
    # In bfloat16, which has no odd integers above 256, different positions would get the same angle.
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    exponents = torch.arange(0, dimensions, 2, dtype=dtype, device=like.device) / dimensions
    positions = torch.arange(length, dtype=dtype, device=like.device)
    angles = positions[:, None] * config.rotary_base**-exponents
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def fused_heads(x: Tensor, w: BlockWeights, config: ModelConfig) -> Heads:
    """Queries, keys and values of x [batch, tokens, width], with ``qkv`` in GPT-NeoX's layout.

    In that layout the rows of each head's query, key and value are adjacent.
    """
    qkv = project(layer_norm(x, w, "attention_norm", config.epsilon), w, "qkv")
    qkv = qkv.unflatten(-1, (config.heads, 3, config.head_width)).transpose(1, 2)
    return Heads(*qkv.unbind(dim=3))


def attend(heads: Heads, w: BlockWeights, dropout: float = 0.0, mask: Tensor | None = None) -> Tensor:
    """Attention and the output projection ``out``: heads → [batch, tokens, width].

    Args:
        heads: queries, keys and values before attention.
        w: the block's weights.
        dropout: dropout rate of the attention weights.
        mask: bool [batch, 1, tokens, tokens], true where a token may attend; causal when not given.
    """
    query, key, value = heads
    grouped = key.shape[1] < query.shape[1]
    mixed = F.scaled_dot_product_attention(
        query, key, value, mask, is_causal=mask is None, dropout_p=dropout, enable_gqa=grouped
    )
    return project(join_heads(mixed), w, "out")


def document_mask(documents: Tensor) -> Tensor:
    """A causal attention mask within documents: int64 [batch, tokens] → bool [batch, 1, tokens, tokens]."""
    length = documents.shape[1]
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return same & torch.ones(length, length, dtype=torch.bool, device=documents.device).tril()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first ``cos.shape[-1]`` dimensions of each head by position: x [..., tokens, head width]."""
    dimensions = cos.shape[-1]
    turned, kept = x[..., :dimensions], x[..., dimensions:]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([turned.to(kept.dtype), kept], dim=-1)


def own_memory(value: Tensor) -> Tensor:
    """A copy of the values if a backward pass will save them.

    A view would keep the whole projection alive, including the queries and keys before their rotation.
    """
    return value.contiguous() if value.requires_grad else value


def join_heads(x: Tensor) -> Tensor:
    """[batch, heads, tokens, head width] → [batch, tokens, heads · head width]."""
    return x.transpose(1, 2).flatten(2)
