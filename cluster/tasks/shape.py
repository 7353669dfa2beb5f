"""Which tasks may be trained together, in one process and by joint passes. No torch: the pool asks it."""

from __future__ import annotations

from typing import Any

from cluster.tasks.task import Task
from odeformer.gradients import gradient_named


def shape(task: Task) -> tuple[Any, ...] | None:
    """Tasks of the same shape can be trained together; None: this one can not.

    Their passes must have the same base, depths, sequence length and number of sequences.
    """
    train = task.train
    if task.method != "lora" or train.sequence_length is None:
        return None
    if gradient_named(train.gradient).regenerates_weights:
        return None
    if task.latency_ms is not None:  # what it buys is not known beforehand
        return None
    drawn = train.seed if len(set(train.depths)) > 1 else None
    batch = train.micro_batch or train.global_batch
    return (task.base, task.depth, train.depths, drawn, train.sequence_length, batch, train.gradient)
