"""Spectra of attention and of the feed-forward part at each t.

A product of thin matrices, A [d, r] · B [r, d], has at most r non-zero eigenvalues, which are those of B A
[r, r]: about (d/r)³ times less work. Its singular values are those of R_A R_Bᵀ from the QR decompositions of
A and Bᵀ.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from odeformer.config import ModelConfig
from odeformer.field import BlockWeights, build_field
from odeformer.field.parts import rotary_table, rotate
from odeformer.lora import merge
from odeformer.model import Odeformer


class Spectrum(NamedTuple):
    """The spectra of a product of thin matrices, for each t and head."""

    eigenvalues: Tensor
    """[times, heads, r], complex, largest first; the others are zero."""
    singular_values: Tensor
    """[times, heads, r], largest first."""
    norm: Tensor
    """[times, heads]: the Frobenius norm; dividing by it removes the scale from a spectrum."""


class Heads(NamedTuple):
    """Each head's matrices, acting on the state before its norm.

    ``query``, ``key`` and ``value`` are [times, heads, head width, width], with the norm's gain and
    LayerNorm's centring folded in; ``out`` is [times, heads, width, head width].
    """

    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor


def weights_at(model: Odeformer, times: Tensor) -> BlockWeights:
    """The block's tensors at times t [M] for cells of width 1/D, with adapters merged: each [M, ...]."""
    with torch.no_grad():
        return merge(model.hypernetwork(times, torch.full_like(times, 1 / model.config.depth)))


def head_matrices(config: ModelConfig, weights: BlockWeights) -> Heads:
    """The matrices of every head, from stacked weights [M, ...]; a group's shared matrices are repeated."""
    count, width, head_width = config.heads, config.width, config.head_width
    qkv, times = weights["qkv_weight"], len(weights["qkv_weight"])
    if config.traits.grouped_heads:
        shared = config.groups * head_width
        parts = [
            part.view(times, -1, head_width, width).repeat_interleave(width // part.shape[1], dim=1)
            for part in qkv.split([width, shared, shared], dim=1)
        ]
    else:
        parts = list(qkv.view(times, count, 3, head_width, width).unbind(dim=2))

    gain = weights["attention_norm_weight"][:, None, None, :]
    parts = [part * gain for part in parts]
    if config.traits.norm != "rms":  # LayerNorm subtracts the state's mean
        parts = [part - part.mean(dim=-1, keepdim=True) for part in parts]
    out = weights["out_weight"].view(times, width, count, head_width).transpose(1, 2)
    query, key, value = parts
    return Heads(query, key, value, out)


def query_key_spectrum(config: ModelConfig, weights: BlockWeights, offset: int = 0) -> Spectrum:
    """Spectrum of A = W_Qᵀ R(Δ) W_K / √d_head.

    Without biases, the attention score of two tokens is x_iᵀ A x_j divided by the norms of both states.

    Args:
        weights: Stacked weights, [M, ...].
        offset: Δ = j − i, the key's position minus the query's.
    """
    heads = head_matrices(config, weights)
    key = heads.key
    if config.traits.rotary_fraction is not None and offset:
        key = rotation(config, offset, key) @ key
    return product_spectrum(heads.query.mT / math.sqrt(config.head_width), key)


def rotation(config: ModelConfig, offset: int, like: Tensor) -> Tensor:
    """R(Δ) [head width, head width] with (R_i q)ᵀ (R_j k) = qᵀ R(j − i) k."""
    cos, sin = rotary_table(config, abs(offset) + 1, like)
    rows = rotate(torch.eye(config.head_width, dtype=like.dtype, device=like.device), cos[-1], sin[-1])
    # ``rotate`` rotates rows: row m is R(|Δ|) e_m. The inverse is the transpose.
    return rows.mT if offset > 0 else rows


def output_value_spectrum(config: ModelConfig, weights: BlockWeights) -> Spectrum:
    """Spectrum of W_O W_V: a head's output for each unit of the normalized state that it reads."""
    heads = head_matrices(config, weights)
    return product_spectrum(heads.out, heads.value)


def product_spectrum(left: Tensor, right: Tensor) -> Spectrum:
    """Spectrum of left [..., d, r] times right [..., r, d], from r × r matrices."""
    triangles = torch.linalg.qr(left)[1] @ torch.linalg.qr(right.mT)[1].mT
    singular = torch.linalg.svdvals(triangles)
    return Spectrum(_eigenvalues(right @ left), singular, singular.square().sum(-1).sqrt())


def _eigenvalues(matrices: Tensor) -> Tensor:
    """Eigenvalues of [..., r, r], largest first."""
    eigenvalues = torch.linalg.eigvals(matrices)
    return eigenvalues.gather(-1, eigenvalues.abs().argsort(dim=-1, descending=True))


def roughness(values: Tensor) -> Tensor:
    """Total variation of values [times, ...] along t, relative to its mean over all orders: [...].

    Near 0 if the values are smooth in t; 1 if their order is as good as random, or if all are equal. Von
    Neumann's ratio (1941) with absolute differences.
    """
    variation = values.diff(dim=0).abs().sum(0)
    mean_variation = (values[:, None] - values[None]).abs().sum((0, 1)) / len(values)
    return torch.where(mean_variation > 0, variation / mean_variation, torch.ones_like(variation))


def feed_forward_eigenvalues(config: ModelConfig, block: BlockWeights, x: Tensor) -> Tensor:
    """Eigenvalues of ∂ feed_forward / ∂ x at given states.

    Args:
        block: The tensors of one block.
        x: States of tokens, [tokens, width].

    Returns:
        [tokens, width], complex, largest first.
    """
    field = build_field(config, x.new_empty(1, 1, config.width), training=False)

    def part(state: Tensor) -> Tensor:
        return field.feed_forward(state.view(1, 1, -1), block).flatten()

    return _eigenvalues(vmap(jacrev(part))(x).detach())
