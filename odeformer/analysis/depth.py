"""What depth does for a text: its loss, each token's loss, and how far the solve is from its limit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from odeformer.analysis.flow import Along, flow_of
from odeformer.model import Odeformer, token_losses


@torch.no_grad()
def losses_by_depth(model: Odeformer, input_ids: Tensor, depths: Sequence[int]) -> Tensor:
    """The loss of every token but the first, in nats, at every N: [depths, batch, tokens − 1]."""
    inputs, targets = input_ids[:, :-1], input_ids[:, 1:]
    return torch.stack([token_losses(model(inputs, depth=n).logits, targets) for n in depths])


@torch.no_grad()
def loss_along(model: Odeformer, input_ids: Tensor, depth: int, along: Along, seed: int = 0) -> Tensor:
    """The mean loss of every token but the first, in nats, with other weights along t: [batch].

    What the order of the cells is worth is seen where it is shuffled; what t is worth at all, where the
    weights are constant. No such model was trained.
    """
    inputs, targets = input_ids[:, :-1], input_ids[:, 1:]
    flow = flow_of(model, inputs.shape[1], depth, along, seed)
    return token_losses(model.unembed(flow.end(model.embed(inputs))), targets).mean(1)


def default_depths(model: Odeformer) -> list[int]:
    """N from the least that a model has to 2D, doubling: where an analysis looks."""
    least = model.config.prelude_layers + 1
    wanted = {model.config.depth * part // 8 for part in (2, 4, 8, 16)}
    return sorted({max(least, n) for n in wanted})


@torch.no_grad()
def distance_from_limit(model: Odeformer, input_ids: Tensor, depths: Sequence[int], limit: int) -> Tensor:
    """‖x_N(1) − x(1)‖ / ‖x(1)‖ for every N, x the states at N = ``limit``: [depths, batch].

    It falls as 1/N for Euler's solver where a model is an ODE, and not at all where its cells are layers
    that have nothing to do with one another.
    """
    x, length = model.embed(input_ids), input_ids.shape[1]
    end = flow_of(model, length, limit).end(x)
    size = end.flatten(1).norm(dim=1)
    return torch.stack(
        [(flow_of(model, length, n).end(x) - end).flatten(1).norm(dim=1) / size for n in depths]
    )
