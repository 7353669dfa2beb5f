"""Validation loss of a model at several depths, distributed over the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from cluster.training.loss import predictions
from cluster.training.worker import all_reduce_sum
from data.stream import ShardStream
from odeformer.model import token_losses


def sample_rows(stream: ShardStream, count: int) -> Tensor:
    """``count`` sequences [count, tokens + 1], spread evenly over a split, or all if there are fewer."""
    count = min(count, stream.sequences)
    return stream.sequence_rows(torch.linspace(0, stream.sequences - 1, count).long())


@torch.no_grad()
def validation_losses(
    engine: Any, rows: Tensor, depths: Sequence[int], batch: int, end_of_text: int | None = None
) -> dict[str, float]:
    """Mean loss in nats per token over ``rows`` [n, tokens + 1] by depth: ``{"validation_loss_<N>": …}``.

    All ranks must call it. As a forward pass is collective under ZeRO-3, every rank runs the same number of
    them; once its share is used up, on row 0 with weight zero.
    """
    engine.eval()
    rank, world = dist.get_rank(), dist.get_world_size()
    losses = {}
    for depth in depths:
        total = torch.zeros((), device=engine.device, dtype=torch.float64)
        for start in range(0, len(rows), batch * world):
            index = start + rank * batch + torch.arange(batch)
            counts = (index < len(rows)).to(engine.device)
            chosen = rows[index.where(index < len(rows), 0)].to(engine.device)
            per_token = token_losses(predictions(engine, chosen, depth, end_of_text), chosen[:, 1:])
            total += (per_token.mean(dim=1) * counts).sum()
        losses[f"validation_loss_{depth}"] = float(all_reduce_sum(total) / len(rows))
    return losses
