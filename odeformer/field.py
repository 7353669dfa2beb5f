"""The vector field: dx/dt = D · (attention(x; W) + feed_forward(x; W)). Pure functions, no parameters.

Weights come as a flat dictionary. A projection ``name`` is y = x Wᵀ + b from ``{name}_weight`` [out, in]
and ``{name}_bias`` [out]; where the dictionary also holds the low-rank pair ``{name}_lora_a`` [r, in] and
``{name}_lora_b`` [out, r], y gains (x Aᵀ) Bᵀ: the full-size ΔW is never formed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from odeformer.config import ModelConfig

BlockWeights = dict[str, Tensor]
"""One block's tensors by name; or those of M blocks, every tensor stacked to [M, ...]."""


@dataclass(frozen=True)
class TensorSpec:
    """Shape and initialisation of one of the block's tensors."""

    shape: tuple[int, ...]
    mean: float = 0.0
    std: float = 0.0


def block_tensors(config: ModelConfig) -> dict[str, TensorSpec]:
    """The tensors of one block, in a fixed order.

    Standard deviations are GPT-NeoX's: √(2 / 5d) (Nguyen and Salazar 2019) for matrices that read the
    residual stream, 2 / (D √d) (Wang and Komatsuzaki 2021) for those that write to it.
    """
    width, hidden = config.width, config.hidden_width
    read, write = math.sqrt(2 / (5 * width)), 2 / (config.depth * math.sqrt(width))
    return {
        "attention_norm_weight": TensorSpec((width,), mean=1.0),
        "attention_norm_bias": TensorSpec((width,)),
        "qkv_weight": TensorSpec((3 * width, width), std=read),
        "qkv_bias": TensorSpec((3 * width,)),
        "out_weight": TensorSpec((width, width), std=write),
        "out_bias": TensorSpec((width,)),
        "feed_forward_norm_weight": TensorSpec((width,), mean=1.0),
        "feed_forward_norm_bias": TensorSpec((width,)),
        "up_weight": TensorSpec((hidden, width), std=read),
        "up_bias": TensorSpec((hidden,)),
        "down_weight": TensorSpec((width, hidden), std=write),
        "down_bias": TensorSpec((width,)),
    }


def project(x: Tensor, w: BlockWeights, name: str) -> Tensor:
    """y = x Wᵀ + b, plus the low-rank pair where there is one. x [..., in] → y [..., out]."""
    y = F.linear(x, w[f"{name}_weight"], w[f"{name}_bias"])
    if f"{name}_lora_a" in w:
        y = y + F.linear(F.linear(x, w[f"{name}_lora_a"]), w[f"{name}_lora_b"])
    return y


def normalise(x: Tensor, w: BlockWeights, name: str) -> Tensor:
    """LayerNorm over the last dimension, epsilon 1e-5."""
    return F.layer_norm(x, x.shape[-1:], w[f"{name}_weight"], w[f"{name}_bias"], 1e-5)


def rotary_table(config: ModelConfig, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin [length, rotary dimensions] of rotary positions (Su et al. 2021), in float32."""
    dimensions = config.rotary_dimensions
    frequencies = 10000 ** -(torch.arange(0, dimensions, 2, device=device) / dimensions)
    angles = torch.arange(length, device=device)[:, None] * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first dimensions of each head by position. x [batch, heads, time, head width]."""
    dimensions = cos.shape[-1]
    turned, kept = x[..., :dimensions], x[..., dimensions:]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([turned.to(kept.dtype), kept], dim=-1)


@dataclass(frozen=True)
class NeoXField:
    """GPT-NeoX's two residual branches as a vector field on the residual stream x [batch, time, width]."""

    config: ModelConfig
    cos: Tensor
    sin: Tensor

    @property
    def speed(self) -> float:
        """D: the factor between this field and dx/dt."""
        return float(self.config.depth)

    def attention(self, x: Tensor, w: BlockWeights) -> Tensor:
        """Causal self-attention. [batch, time, width] → [batch, time, width]."""
        batch, time, width = x.shape
        qkv = project(normalise(x, w, "attention_norm"), w, "qkv")
        # GPT-NeoX's layout: each head's query, key and value lie side by side.
        qkv = qkv.view(batch, time, self.config.heads, 3, self.config.head_width).transpose(1, 2)
        query, key, value = qkv.unbind(dim=3)
        query, key = rotate(query, self.cos, self.sin), rotate(key, self.cos, self.sin)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return project(mixed.transpose(1, 2).reshape(batch, time, width), w, "out")

    def feed_forward(self, x: Tensor, w: BlockWeights) -> Tensor:
        """Two projections with an exact GELU between. [batch, time, width] → [batch, time, width]."""
        hidden = F.gelu(project(normalise(x, w, "feed_forward_norm"), w, "up"))
        return project(hidden, w, "down")

    def __call__(self, x: Tensor, w: BlockWeights) -> Tensor:
        """The parallel field: both branches read the same x."""
        return self.attention(x, w) + self.feed_forward(x, w)
