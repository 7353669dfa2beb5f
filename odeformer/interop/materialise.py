"""Any depth of a continuous-depth model as N ordinary layers."""

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
"""The tensors that write to the residual stream: scaling them scales a layer's step."""


@dataclass(frozen=True)
class Ordinary:
    """An ordinary transformer: x + attention(x) + feed_forward(x) for one layer after the other."""

    config: ModelConfig
    """Its shape: basis ``none``, depth N."""
    solver: str
    """``euler`` where both branches of a layer read the same x, ``lie_trotter`` where one reads what the
    other made of it."""
    layers: BlockWeights
    """Every tensor of the block, [N, ...], float32."""
    outer: dict[str, Tensor]
    """``embedding.weight``, ``final_norm.weight`` and so on, named as in the model."""

    def model(self) -> Odeformer:
        """The same layers as a model of this package."""
        model = Odeformer(self.config)
        means = {name: spec.mean for name, spec in model.hypernetwork.tensors.items()}
        state = {f"hypernetwork.{name}": w - means[name] for name, w in self.layers.items()}
        model.load_state_dict({**self.outer, **state})
        model.options = SolveOptions(self.solver)
        return model.eval()


@torch.no_grad()
def materialise(model: Odeformer, depth: int | None = None) -> Ordinary:
    """The N layers that a solve of ``depth`` cells is: W at the cells' midpoints, adapters merged.

    A cell of width h moves x by h·D · f(x); h·D goes into the projections that write to the residual
    stream, and their biases. At N = D it is 1 and nothing is rounded. A model that was trained with another
    solver is run as its flavour's layers; its loss has then to be measured again.

    Args:
        depth: N, the prelude's layers included; the model depth when not given.

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
    """The solver whose steps are the layers: the model's own, or its flavour's default."""
    return layer_solver_name(model.solver, model.config.default_solver)


def layer_weights(model: Odeformer, depth: int | None) -> BlockWeights:
    """W at the midpoints of the cells, whatever the model's solver, with low-rank pairs apart."""
    return model.depth_weights(depth, layer_solver(model))


def step_scales(model: Odeformer, depth: int | None) -> Tensor:
    """h · D of every cell, [N]."""
    prelude, flow = model.grids(depth)
    speed = float(model.config.depth)
    cells = [cell for grid in (prelude, flow) if len(grid) > 1 for cell in cells_of(grid, speed)]
    return torch.tensor([cell.scale for cell in cells], device=model.embedding.weight.device)
