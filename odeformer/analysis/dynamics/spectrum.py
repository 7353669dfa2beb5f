"""Spectra of what attention and feed-forward part do at each t.

Products of two thin matrices, A [d, r] · B [r, d], have at most r eigenvalues that are not zero, and those
are the eigenvalues of B A [r, r]: about (d/r)³ times less work. Their singular values are those of R_A R_Bᵀ
from the QR decompositions of A and Bᵀ.
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
    """Of matrices that are products of thin ones, one for each t and head."""

    eigenvalues: Tensor
    """[times, heads, r], complex, largest first; the others are zero."""
    singular_values: Tensor
    """[times, heads, r], largest first."""
    norm: Tensor
    """[times, heads]: the Frobenius norm, by which both are divided for a spectrum that knows no scale."""


class Heads(NamedTuple):
    """Each head's matrices, of the state before its norm: [times, heads, …]."""

    query: Tensor
    """[…, head width, width], with the norm's gain and LayerNorm's centring in it."""
    key: Tensor
    """The same."""
    value: Tensor
    """The same."""
    out: Tensor
    """[…, width, head width]."""


def weights_at(model: Odeformer, times: Tensor) -> BlockWeights:
    """The block's tensors at times t [M] for cells of width 1/D, adapters merged: each [M, ...]."""
    with torch.no_grad():
        return merge(model.hypernetwork(times, torch.full_like(times, 1 / model.config.depth)))


def head_matrices(config: ModelConfig, weights: BlockWeights) -> Heads:
    """The matrices of every head, from stacked weights [M, ...]; those shared by a group are repeated."""
    count, width, one = config.heads, config.width, config.head_width
    qkv, times = weights["qkv_weight"], len(weights["qkv_weight"])
    if config.traits.grouped_heads:
        shared = config.groups * one
        parts = qkv.split([width, shared, shared], dim=1)
        query, key, value = (
            part.view(times, -1, one, width).repeat_interleave(width // part.shape[1], dim=1)
            for part in parts
        )
    else:
        query, key, value = qkv.view(times, count, 3, one, width).unbind(dim=2)
    gain = weights["attention_norm_weight"][:, None, None, :]
    query, key, value = (_reads(part * gain, config) for part in (query, key, value))
    out = weights["out_weight"].view(times, width, count, one).transpose(1, 2)
    return Heads(query, key, value, out)


def _reads(rows: Tensor, config: ModelConfig) -> Tensor:
    """Rows that read a normalised state, as rows that read the state: LayerNorm takes its mean away."""
    return rows if config.traits.norm == "rms" else rows - rows.mean(dim=-1, keepdim=True)


def query_key_spectrum(config: ModelConfig, weights: BlockWeights, offset: int = 0) -> Spectrum:
    """Of W_Qᵀ R(Δ) W_K / √d_head: without biases the score of two tokens is x_iᵀ of it x_j, over both states'
    norms.

    Args:
        weights: stacked, [M, ...].
        offset: Δ = j − i, how far the key's token comes after the query's; negative for those before it.
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
    # ``rotate`` turns rows: row m is R(|Δ|) e_m. The way back is the transpose.
    return rows.mT if offset > 0 else rows


def output_value_spectrum(config: ModelConfig, weights: BlockWeights) -> Spectrum:
    """Of W_O W_V: what a head adds to a token's state for each unit of the normalised state that it reads."""
    heads = head_matrices(config, weights)
    return product_spectrum(heads.out, heads.value)


def product_spectrum(left: Tensor, right: Tensor) -> Spectrum:
    """Of left [..., d, r] times right [..., r, d], from r × r matrices."""
    eigenvalues = torch.linalg.eigvals(right @ left)
    order = eigenvalues.abs().argsort(dim=-1, descending=True)
    triangles = torch.linalg.qr(left)[1] @ torch.linalg.qr(right.mT)[1].mT
    singular = torch.linalg.svdvals(triangles)
    return Spectrum(eigenvalues.gather(-1, order), singular, singular.square().sum(-1).sqrt())


def roughness(values: Tensor) -> Tensor:
    """How much values [times, ...] move from one t to the next, beside the same in random order: [...].

    Σ |v(t_{i+1}) − v(t_i)| over its mean over all orders, (times − 1) · the mean |difference| of two.
    1 where the order in t says nothing, near 0 where they are smooth in t; 1 where none differs from another.
    (Von Neumann's ratio, 1941, with absolute differences.)
    """
    times = len(values)
    moved = values.diff(dim=0).abs().sum(0)
    in_any_order = (values[:, None] - values[None]).abs().sum((0, 1)) / times
    return torch.where(in_any_order > 0, moved / in_any_order, torch.ones_like(moved))


def feed_forward_eigenvalues(config: ModelConfig, block: BlockWeights, x: Tensor) -> Tensor:
    """Eigenvalues of ∂ feed_forward / ∂ x at real states.

    Args:
        block: one block's tensors.
        x: states of tokens, [tokens, width].

    Returns:
        [tokens, width], complex, largest first.
    """
    field = build_field(config, x.new_empty(1, 1, config.width), training=False)

    def part(state: Tensor) -> Tensor:
        return field.feed_forward(state.view(1, 1, -1), block).flatten()

    eigenvalues = torch.linalg.eigvals(vmap(jacrev(part))(x).detach())
    order = eigenvalues.abs().argsort(dim=-1, descending=True)
    return eigenvalues.gather(-1, order)
