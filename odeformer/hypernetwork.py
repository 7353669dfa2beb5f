"""The hypernetwork: t [M] → the block's tensors at those times. The only module that owns depth weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from odeformer.basis import build_basis
from odeformer.config import ModelConfig
from odeformer.field import BlockWeights, block_tensors
from odeformer.lora import Adapter


class Hypernetwork(nn.Module):
    """W(t) = mean + Σ_k c_k(t) B_k for each tensor of the block, all times in one product per tensor.

    The parameter of a tensor's weight sets has the tensor's own name and shape [K, ...]. They are
    registered directly on this module: ZeRO-3 gathers a module's parameters when that module is called,
    and calls this one once per pass.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.tensors = block_tensors(config)
        self.basis = build_basis(config.basis, len(self.tensors))
        self.adapter: Adapter | None = None
        midpoints = torch.tensor([(i + 0.5) / config.depth for i in range(config.depth)])
        with torch.no_grad():
            coefficients = self.basis(midpoints, torch.full_like(midpoints, 1 / config.depth))
            # Whatever K and the basis, W(t) starts with its tensor's standard deviation on the training grid.
            gain = coefficients.square().sum(dim=2).mean(dim=1).sqrt()
            for i, (name, spec) in enumerate(self.tensors.items()):
                sets = torch.empty(config.basis.size, *spec.shape).normal_() * (spec.std / gain[i])
                self.register_parameter(name, nn.Parameter(sets))

    def forward(self, t: Tensor, h: Tensor) -> BlockWeights:
        """The block's tensors at times t [M] in cells of width h [M]: each [M, ...], float32."""
        # Coefficients and master weights stay in float32 under autocast; the field's products do not.
        with torch.autocast(t.device.type, enabled=False):
            coefficients = self.basis(t, h)
            weights = {}
            for c, (name, spec) in zip(coefficients, self.tensors.items(), strict=True):
                sets = getattr(self, name)
                mixed = (c @ sets.flatten(1)).view(-1, *spec.shape)
                weights[name] = mixed + spec.mean if spec.mean else mixed
            if self.adapter is not None:
                weights.update(self.adapter(t))
        return weights


def depth_parameters(config: ModelConfig) -> int:
    """Number of stored parameters that make W(t), coefficient functions included."""
    with torch.device("meta"):
        return sum(p.numel() for p in Hypernetwork(config).parameters())
