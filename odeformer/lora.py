"""Depth-elastic adapters: ΔW(t) = (alpha / r) · B(t) A(t), low-rank and smooth in t.

Being functions of t like the weights they change, they are trained at one depth, or several, and hold at
every depth. LoRA itself: Hu et al. 2021, arXiv 2106.09685.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odeformer.config import AdapterConfig, ModelConfig
from odeformer.field import BlockWeights, block_tensors


class Adapter(nn.Module):
    """A(t) = Σ_j cos(πjt) A_j and B(t) = Σ_j cos(πjt) B_j for each adapted projection.

    Parameters ``{name}_lora_a`` [size, r, in] and ``{name}_lora_b`` [size, out, r]; B starts at zero, so
    a fresh adapter changes nothing.
    """

    def __init__(self, config: AdapterConfig, model: ModelConfig) -> None:
        super().__init__()
        self.config = config
        tensors = block_tensors(model)
        for name in config.targets:
            if f"{name}_weight" not in tensors:
                raise ValueError(f"targets: {name!r} is not a projection of flavour {model.flavour!r}")
            out_features, in_features = tensors[f"{name}_weight"].shape
            a = torch.randn(config.size, config.rank, in_features) / math.sqrt(in_features * config.size)
            b = torch.zeros(config.size, out_features, config.rank)
            self.register_parameter(f"{name}_lora_a", nn.Parameter(a))
            self.register_parameter(f"{name}_lora_b", nn.Parameter(b))

    def forward(self, t: Tensor) -> BlockWeights:
        """At times t [M]: ``{name}_lora_a`` [M, r, in] and ``{name}_lora_b`` [M, out, r], already scaled."""
        cosines = torch.cos(math.pi * t[:, None] * torch.arange(self.config.size, device=t.device))
        pairs = {}
        for name in self.config.targets:
            a, b = getattr(self, f"{name}_lora_a"), getattr(self, f"{name}_lora_b")
            pairs[f"{name}_lora_a"] = torch.einsum("mj,jri->mri", cosines, a)
            scale = self.config.alpha / self.config.rank
            pairs[f"{name}_lora_b"] = torch.einsum("mj,jor->mor", scale * cosines, b)
        return pairs


def side_by_side(adapters: Sequence[Adapter], t: Tensor) -> BlockWeights:
    """The pairs of several adapters, for a batch of as many equal parts, one behind the other.

    At times t [M]: ``{name}_lora_a`` [M, adapters, r, in] and ``{name}_lora_b`` [M, adapters, out, r], r the
    greatest of their ranks. What an adapter has less of is zero, and stays it.
    """
    rank = max(adapter.config.rank for adapter in adapters)
    made = [adapter(t) for adapter in adapters]
    pairs = {}
    for name in dict.fromkeys(name for one in made for name in one):
        like = next(one[name] for one in made if name in one)
        parts = [one.get(name, torch.zeros_like(like)) for one in made]
        pairs[name] = torch.stack([_of_rank(part, rank, name) for part in parts], dim=1)
    return pairs


def _of_rank(part: Tensor, rank: int, name: str) -> Tensor:
    """A [M, r, in] or B [M, out, r] with zeros up to another rank."""
    in_a = name.endswith("_lora_a")
    missing = rank - part.shape[1 if in_a else 2]
    return F.pad(part, (0, 0, 0, missing) if in_a else (0, missing))


def merge(weights: BlockWeights) -> BlockWeights:
    """The same linear maps with every low-rank pair added into its weight, for stacked or single blocks."""
    merged = {name: tensor for name, tensor in weights.items() if "_lora_" not in name}
    for name in weights:
        if name.endswith("_lora_a"):
            target = name.removesuffix("_lora_a")
            merged[f"{target}_weight"] = (
                weights[f"{target}_weight"] + weights[f"{target}_lora_b"] @ weights[name]
            )
    return merged
