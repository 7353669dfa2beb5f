"""The hypernetwork, which owns the block's stored weights and generates W(t) from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from odeformer.basis import basis_named
from odeformer.basis.after_prelude import AfterPrelude
from odeformer.config import BasisConfig, ModelConfig
from odeformer.field import BlockWeights, block_tensors
from odeformer.lora import Adapter


class WeightSource(Protocol):
    """A source of W(t), such as a hypernetwork: times t [M], cell widths h [M] → tensors [M, ...]."""

    def __call__(self, t: Tensor, h: Tensor) -> BlockWeights: ...


class FixedWeights:
    """A weight source that always returns the same precomputed weights and ignores the times."""

    def __init__(self, weights: BlockWeights) -> None:
        self._weights = weights

    def __call__(self, t: Tensor, h: Tensor) -> BlockWeights:
        return self._weights


def time_tensors(times: Sequence[float], widths: Sequence[float], like: Tensor) -> tuple[Tensor, Tensor]:
    """Times t and cell widths h as tensors [M] on the device of ``like``, float64 if it is, else float32."""
    # Never bfloat16: its spacing near 1 is wider than a cell of a deep solve.
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    t = torch.tensor(times, dtype=dtype, device=like.device)
    return t, torch.tensor(widths, dtype=dtype, device=like.device)


class Hypernetwork(nn.Module):
    """W(t) = mean + Σ_k c_k(t) B_k for each tensor of the block, by one matmul per tensor for all times.

    The weight sets B_1 … B_K of a tensor are one parameter [K, ...] with the tensor's name. They are
    registered directly on this module, because ZeRO-3 gathers a module's own parameters when the module is
    called, and this one is called once per pass.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.tensors = block_tensors(config)
        self.basis = build_basis(config.basis, len(self.tensors), config.depth, config.prelude_layers)
        self.adapter: Adapter | None = None
        midpoints = torch.tensor([(i + 0.5) / config.depth for i in range(config.depth)])
        with torch.no_grad():
            coefficients = self.basis(midpoints, torch.full_like(midpoints, 1 / config.depth))
            # Dividing by the gain gives W(t) the tensor's intended initial std for any K and basis.
            gain = coefficients.square().sum(dim=2).mean(dim=1).sqrt()
            for i, (name, spec) in enumerate(self.tensors.items()):
                sets = torch.randn(config.basis.size, *spec.shape) * (spec.std / gain[i])
                self.register_parameter(name, nn.Parameter(sets))

    def forward(self, t: Tensor, h: Tensor) -> BlockWeights:
        """The block's tensors at times t [M] in cells of width h [M], each [M, ...], in the dtype of t."""
        # Coefficients and generated weights are float32 also under autocast, unlike the field's matmuls.
        with torch.autocast(t.device.type, enabled=False):
            coefficients = self.basis(t, h)
            weights = {}
            for c, (name, spec) in zip(coefficients, self.tensors.items(), strict=True):
                mixed = (c @ getattr(self, name).flatten(1)).view(-1, *spec.shape)
                weights[name] = mixed + spec.mean if spec.mean else mixed
            if self.adapter is not None:
                weights.update(self.adapter(t))
        return weights


def build_basis(config: BasisConfig, tensors: int, depth: int, prelude: int = 0) -> nn.Module:
    """The coefficient functions of ``config`` for a block of ``tensors`` tensors in a model of depth D."""
    basis = basis_named(config.kind).build(tensors, config.size)
    return AfterPrelude(basis, config.size, prelude, depth) if 0 < prelude < config.size < depth else basis


def depth_parameters(config: ModelConfig) -> int:
    """Number of parameters that W(t) is generated from: weight sets and coefficient functions."""
    with torch.device("meta"):
        return sum(p.numel() for p in Hypernetwork(config).parameters())
