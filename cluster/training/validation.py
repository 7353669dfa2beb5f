"""Validation loss of a model at several depths, distributed over the ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from cluster.training.communication import all_reduce_sum
from cluster.training.loss import predictions
from data.stream import MixedStream
from odeformer.model import token_losses


def sample_rows(stream: MixedStream, count: int) -> Tensor:
    """``count`` sequences [count, tokens + 1], spread evenly over a split, or all if there are fewer."""
    return stream.sequence_rows(stream.spread_ids(count))


@torch.no_grad()
def validation_losses(
    engine: Any,
    rows: Tensor,
    depths: Sequence[int],
    batch: int,
    end_of_text: int | None = None,
    sources: Mapping[str, Tensor] | None = None,
) -> dict[str, float]:
    """Mean loss in nats per token over ``rows`` [n, tokens + 1] by depth: ``{"validation_loss_<N>": …}``.

    All ranks must call it. As a forward pass is collective under ZeRO-3, every rank runs the same number of
    them; once its share is used up, on row 0 with weight zero.

    Args:
        sources: masks of the rows of each source, bool [n], whose losses are ``validation/<name>/<N>``.
    """
    engine.eval()
    rank, world = dist.get_rank(), dist.get_world_size()
    masks = {"": torch.ones(len(rows), dtype=torch.bool), **(sources or {})}
    losses = {}
    for depth in depths:
        totals = torch.zeros(len(masks), device=engine.device, dtype=torch.float64)
        for start in range(0, len(rows), batch * world):
            index = start + rank * batch + torch.arange(batch)
            is_row, index = index < len(rows), index.where(index < len(rows), 0)
            chosen = rows[index].to(engine.device)
            per_token = token_losses(predictions(engine, chosen, depth, end_of_text), chosen[:, 1:])
            counts = torch.stack([mask[index] & is_row for mask in masks.values()]).to(engine.device)
            totals += (per_token.mean(dim=1) * counts).sum(dim=1)
        means = all_reduce_sum(totals).tolist()
        for (name, mask), total in zip(masks.items(), means, strict=True):
            key = f"validation/{name}/{depth}" if name else f"validation_loss_{depth}"
            losses[key] = total / int(mask.sum())
    return losses
