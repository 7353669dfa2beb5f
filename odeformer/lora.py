"""LoRA adapters for any depth: ΔW(t) = (alpha / r) · B(t) A(t), low-rank and smooth in t.

Since they are functions of t, like the weights they change, they can be trained at one or several depths and
used at every depth. LoRA: Hu et al. 2021, arXiv 2106.09685.
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
    """A low-rank change ΔE = B A of the token embedding E [vocabulary, width].

    With a leading dimension J, each of J equal parts of the batch has its own change.
    """

    a: Tensor
    """[r, width] or [J, r, width]."""
    b: Tensor
    """[vocabulary, r] or [J, vocabulary, r], including the scale alpha / r."""

    def rows(self, input_ids: Tensor) -> Tensor:
        """Rows of ΔE for token ids: [batch, tokens], int64 → [batch, tokens, width]."""
        a, b = (factor if factor.ndim == 3 else factor[None] for factor in self)
        count, vocabulary, rank = b.shape
        first = vocabulary * torch.arange(count, device=input_ids.device)
        rows = F.embedding(input_ids.reshape(count, -1) + first[:, None], b.reshape(-1, rank)) @ a
        return rows.view(*input_ids.shape, -1)

    def logits(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Logits x (E + B A)ᵀ of tied embeddings: [batch, ..., width] → [batch, ..., vocabulary]."""
        return adapted_linear(x, embedding, None, self.a, self.b)


class AdaptedEmbedding(nn.Module):
    """A change of the embedding: ``lora_a`` [r, width] and ``lora_b`` [vocabulary, r], zero at first."""

    def __init__(self, config: AdapterConfig, model: ModelConfig) -> None:
        super().__init__()
        assert model.vocabulary_size is not None
        self.scale = config.alpha / config.rank
        self.lora_a = nn.Parameter(torch.randn(config.rank, model.width) / math.sqrt(model.width))
        self.lora_b = nn.Parameter(torch.zeros(model.vocabulary_size, config.rank))

    def forward(self) -> EmbeddingPair:
        return EmbeddingPair(self.lora_a, self.scale * self.lora_b)


class Adapter(nn.Module):
    """A LoRA adapter: A(t) = Σ_j cos(πjt) A_j and B(t) = Σ_j cos(πjt) B_j for each adapted projection.

    The parameters are ``{name}_lora_a`` [size, r, in], ``{name}_lora_b`` [size, out, r] and, if the token
    embedding is adapted, those of ``embedding``. B starts at zero, so a new adapter changes nothing.
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
        """Pairs at times t [M]: ``{name}_lora_a`` [M, r, in] and ``{name}_lora_b`` [M, out, r], scaled."""
        cosines = torch.cos(math.pi * t[:, None] * torch.arange(self.config.size, device=t.device))
        pairs = {}
        for name in self.projections:
            a, b = getattr(self, f"{name}_lora_a"), getattr(self, f"{name}_lora_b")
            pairs[f"{name}_lora_a"] = torch.einsum("mj,jri->mri", cosines, a)
            scale = self.config.alpha / self.config.rank
            pairs[f"{name}_lora_b"] = torch.einsum("mj,jor->mor", scale * cosines, b)
        return pairs


def side_by_side(adapters: Sequence[Adapter], t: Tensor) -> BlockWeights:
    """The pairs of J adapters at times t [M], for a batch of J equal parts, one part per adapter.

    Returns ``{name}_lora_a`` [M, J, r, in] and ``{name}_lora_b`` [M, J, out, r], where r is the largest rank.
    Smaller ranks, and projections that an adapter lacks, are padded with zeros, which stay zero.
    """
    rank = max(adapter.config.rank for adapter in adapters)
    by_adapter = [adapter(t) for adapter in adapters]
    stacked = {}
    for name in dict.fromkeys(name for pairs in by_adapter for name in pairs):
        like = next(pairs[name] for pairs in by_adapter if name in pairs)
        parts = [pairs.get(name, torch.zeros_like(like)) for pairs in by_adapter]
        padded = [_pad_rank(part, rank, name.endswith("_lora_a")) for part in parts]
        stacked[name] = torch.stack(padded, dim=1)
    return stacked


def embeddings_side_by_side(adapters: Sequence[Adapter]) -> EmbeddingPair | None:
    """The embedding changes of several adapters, stacked as in :func:`side_by_side`; None if none has one."""
    pairs = [None if adapter.embedding is None else adapter.embedding() for adapter in adapters]
    like = next((pair for pair in pairs if pair is not None), None)
    if like is None or len(pairs) == 1:
        return like
    rank = max(adapter.config.rank for adapter in adapters)
    zero = EmbeddingPair(torch.zeros_like(like.a), torch.zeros_like(like.b))
    return EmbeddingPair(
        torch.stack([_pad_rank((pair or zero).a, rank, in_a=True) for pair in pairs]),
        torch.stack([_pad_rank((pair or zero).b, rank, in_a=False) for pair in pairs]),
    )


def _pad_rank(part: Tensor, rank: int, in_a: bool) -> Tensor:
    """A [..., r, in] or B [..., out, r], padded with zeros to a larger rank."""
    missing = rank - part.shape[-2 if in_a else -1]
    return F.pad(part, (0, 0, 0, missing) if in_a else (0, missing))


def merge(weights: BlockWeights) -> BlockWeights:
    """The weights of one block, or of several stacked ones, with every low-rank pair added to its matrix."""
    merged = {name: tensor for name, tensor in weights.items() if "_lora_" not in name}
    for name in weights:
        if name.endswith("_lora_a"):
            target = name.removesuffix("_lora_a")
            merged[f"{target}_weight"] = (
                weights[f"{target}_weight"] + weights[f"{target}_lora_b"] @ weights[name]
            )
    return merged
