"""Collective operations of the workers."""

from __future__ import annotations

from torch import Tensor
from torch import distributed as dist


def all_reduce_sum(value: Tensor) -> Tensor:
    """The sum of a tensor over all ranks."""
    value = value.clone()
    dist.all_reduce(value)
    return value
