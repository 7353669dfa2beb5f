"""Depth-elastic adapters: ΔW(t) = (alpha / r) · B(t) A(t), low-rank and smooth in t.

Being functions of t like the weights they change, they are trained at one depth, or several, and hold at
every depth. LoRA itself: Hu et al. 2021, arXiv 2106.09685.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odeformer.config import AdapterConfig, ModelConfig
from odeformer.field import BlockWeights, block_tensors
from odeformer.field.adapted import adapted_linear


class EmbeddingPair(NamedTuple):
    """ΔE = B A of a token embedding E [vocabulary, width]; or one for each of J equal parts of a batch."""

    a: Tensor
    """[r, width] or [J, r, width]."""
    b: Tensor
    """[vocabulary, r] or [J, vocabulary, r], already scaled."""

    def rows(self, input_ids: Tensor) -> Tensor:
        """ΔE of each token: [batch, tokens], int64 → [batch, tokens, width]."""
        a, b = (factor if factor.ndim == 3 else factor[None] for factor in self)
        count, vocabulary, rank = b.shape
        first = vocabulary * torch.arange(count, device=input_ids.device)
        rows = F.embedding(input_ids.reshape(count, -1) + first[:, None], b.reshape(-1, rank)) @ a
        return rows.view(*input_ids.shape, -1)

    def logits(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (E + B A)ᵀ, E as the output matrix: [batch, ..., width] → [batch, ..., vocabulary]."""
        return adapted_linear(x, embedding, None, self.a, self.b)


class AdaptedEmbedding(nn.Module):
    """The pair of one adapter: ``lora_a`` [r, width], and ``lora_b`` [vocabulary, r], at first zero."""

    def __init__(self, config: AdapterConfig, model: ModelConfig) -> None:
        super().__init__()
        assert model.vocabulary_size is not None
        self.scale = config.alpha / config.rank
        self.lora_a = nn.Parameter(torch.randn(config.rank, model.width) / math.sqrt(model.width))
        self.lora_b = nn.Parameter(torch.zeros(model.vocabulary_size, config.rank))

    def forward(self) -> EmbeddingPair:
        return EmbeddingPair(self.lora_a, self.scale * self.lora_b)


class Adapter(nn.Module):
    """A(t) = Σ_j cos(πjt) A_j and B(t) = Σ_j cos(πjt) B_j for each adapted projection.

    Parameters ``{name}_lora_a`` [size, r, in] and ``{name}_lora_b`` [size, out, r]; B starts at zero, so
    a fresh adapter changes nothing. ``embedding``: the token embedding's pair, where that is adapted too.
    """

    def __init__(self, config: AdapterConfig, model: ModelConfig) -> None:
        super().__init__()
        self.config = config
        tensors = block_tensors(model)
        self.projections = [name for name in config.targets if name != "embedding"]
        self.embedding = AdaptedEmbedding(config, model) if "embedding" in config.targets else None
        for name in self.projections:
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
        for name in self.projections:
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
        pairs[name] = torch.stack([_of_rank(part, rank, name.endswith("_lora_a")) for part in parts], dim=1)
    return pairs


def embeddings_side_by_side(adapters: Sequence[Adapter]) -> EmbeddingPair | None:
    """The pairs of several adapters' embeddings, as in :func:`side_by_side`; None where there is none."""
    made = [None if adapter.embedding is None else adapter.embedding() for adapter in adapters]
    like = next((pair for pair in made if pair is not None), None)
    if like is None or len(made) == 1:
        return like
    rank = max(adapter.config.rank for adapter in adapters)
    nothing = EmbeddingPair(torch.zeros_like(like.a), torch.zeros_like(like.b))
    pairs = [nothing if pair is None else pair for pair in made]
    return EmbeddingPair(
        torch.stack([_of_rank(pair.a, rank, in_a=True) for pair in pairs]),
        torch.stack([_of_rank(pair.b, rank, in_a=False) for pair in pairs]),
    )


def _of_rank(part: Tensor, rank: int, in_a: bool) -> Tensor:
    """A [..., r, in] or B [..., out, r] with zeros up to another rank."""
    missing = rank - part.shape[-2 if in_a else -1]
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
