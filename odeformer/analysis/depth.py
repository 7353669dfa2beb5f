"""The effect of depth on a text: losses, and the distance of the solve from its limit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from odeformer.analysis.flow import Along, flow_of
from odeformer.model import Odeformer, token_losses


@torch.no_grad()
def losses_by_depth(model: Odeformer, input_ids: Tensor, depths: Sequence[int]) -> Tensor:
    """Loss of every token but the first, in nats, at each N: [depths, batch, tokens − 1]."""
    inputs, targets = input_ids[:, :-1], input_ids[:, 1:]
    return torch.stack([token_losses(model(inputs, depth=n).logits, targets) for n in depths])


@torch.no_grad()
def loss_along(model: Odeformer, input_ids: Tensor, depth: int, along: Along, seed: int = 0) -> Tensor:
    """Mean loss of every token but the first, in nats, with other weights along t: [batch].

    Shuffled cells show the value of their order, constant weights the value of t. No such model was trained.
    """
    inputs, targets = input_ids[:, :-1], input_ids[:, 1:]
    flow = flow_of(model, inputs.shape[1], depth, along, seed)
    return token_losses(model.unembed(flow.end(model.embed(inputs))), targets).mean(1)


def default_depths(model: Odeformer) -> list[int]:
    """The depths N of an analysis: a quarter of D to 2D, doubling, where the model allows them."""
    least = model.config.prelude_layers + 1
    return sorted({max(least, model.config.depth * part // 8) for part in (2, 4, 8, 16)})


@torch.no_grad()
def distance_from_limit(model: Odeformer, input_ids: Tensor, depths: Sequence[int], limit: int) -> Tensor:
    """‖x_N(1) − x(1)‖ / ‖x(1)‖ at each N, where x is the solve at N = ``limit``: [depths, batch].

    With Euler's solver it falls as 1/N if the model behaves as an ODE, and stays if its cells are unrelated
    layers.
    """
    x, length = model.embed(input_ids), input_ids.shape[1]
    end = flow_of(model, length, limit).end(x)
    size = end.flatten(1).norm(dim=1)
    return torch.stack(
        [(flow_of(model, length, n).end(x) - end).flatten(1).norm(dim=1) / size for n in depths]
    )
