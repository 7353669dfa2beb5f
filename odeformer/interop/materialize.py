"""A continuous-depth model at depth N as N ordinary layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from odeformer.config import BasisConfig, ModelConfig
from odeformer.field import BlockWeights
from odeformer.lora import merge
from odeformer.model import Odeformer, SolveOptions
from odeformer.solvers import cells_of, layer_solver_name

WRITING = ("out_weight", "out_bias", "down_weight", "down_bias")
"""The tensors that write to the residual stream; scaling them scales a layer's step."""


@dataclass(frozen=True)
class Ordinary:
    """An ordinary transformer of N layers."""

    config: ModelConfig
    """The shape, with basis ``none`` and depth N."""
    solver: str
    """``euler`` for parallel residual branches, ``lie_trotter`` for sequential ones."""
    layers: BlockWeights
    """Every tensor of the block, stacked to [N, ...], float32."""
    outer: dict[str, Tensor]
    """The tensors outside the layers, such as ``embedding.weight``, named as in :class:`Odeformer`."""

    def model(self) -> Odeformer:
        """The same transformer as a model of this package."""
        model = Odeformer(self.config)
        means = {name: spec.mean for name, spec in model.hypernetwork.tensors.items()}
        state = {f"hypernetwork.{name}": w - means[name] for name, w in self.layers.items()}
        model.load_state_dict({**self.outer, **state})
        model.options = SolveOptions(self.solver)
        return model.eval()


@torch.no_grad()
def materialize(model: Odeformer, depth: int | None = None) -> Ordinary:
    """The N ordinary layers that equal a solve of N cells: W at the cells' midpoints, adapters merged.

    A cell of width h moves x by h·D · f(x), and the factor h·D is merged into the projections that write to
    the residual stream. At N = D it is 1 and nothing is rounded. If the model's solver has no steps that are
    ordinary layers, those of the flavour's default solver are used, and the loss has to be measured again.

    Args:
        model: the model.
        depth: N, including the prelude; the model depth when not given.

    Raises:
        ValueError: for too small a depth.
    """
    layers, scales = merge(layer_weights(model, depth)), step_scales(model, depth)
    for name in WRITING:
        if name in layers:
            layers[name] = layers[name] * scales.view(-1, *[1] * (layers[name].ndim - 1))
    count = len(scales)
    config = model.config.model_copy(
        update={"depth": count, "prelude": 0, "basis": BasisConfig(kind="none", size=count)}
    )
    outer = {
        name: tensor.detach()
        for name, tensor in model.state_dict().items()
        if not name.startswith("hypernetwork.")
    }
    outer["embedding.weight"] = model.adapted_embedding().detach()
    return Ordinary(config, layer_solver(model), layers, outer)


def layer_solver(model: Odeformer) -> str:
    """The solver whose steps are the layers: the model's own if possible, else its flavour's default."""
    return layer_solver_name(model.solver, model.config.default_solver)


def layer_weights(model: Odeformer, depth: int | None) -> BlockWeights:
    """The block's tensors at the midpoints of the cells, [N, ...]; LoRA pairs are not merged."""
    return model.depth_weights(depth, layer_solver(model))


def layer_pairs(model: Odeformer, depth: int | None) -> BlockWeights:
    """The attached adapter's LoRA pairs at the midpoints of the cells, [N, ...]; none without an adapter."""
    adapter = model.hypernetwork.adapter
    times, _ = model.node_times(depth, layer_solver(model))
    return {} if adapter is None else adapter(times)


def step_scales(model: Odeformer, depth: int | None) -> Tensor:
    """The factor h·D of every cell, [N]."""
    prelude, flow = model.grids(depth)
    speed = float(model.config.depth)
    cells = [cell for grid in (prelude, flow) if len(grid) > 1 for cell in cells_of(grid, speed)]
    return torch.tensor([cell.scale for cell in cells], device=model.embedding.weight.device)
