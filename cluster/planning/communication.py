"""What workers send each other in an optimizer step: how much by the ZeRO stage, and how long it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from cluster.planning.hardware import LINK_LATENCY, Gpu, Network
from cluster.settings import ZeroSettings
from cluster.training import zero
from cluster.training.memory import FLOAT, LIVE

Operation = Literal["all_reduce", "all_gather", "reduce_scatter"]
MESSAGE = zero.BUCKET * FLOAT
"""Bytes that travel together at most."""


class Collective(NamedTuple):
    """One kind of operation in a step: the bytes of all its messages, each counted once and whole."""

    operation: Operation
    bytes: int


def collectives(
    sizes: Sequence[Sequence[int]], settings: ZeroSettings, workers: int, passes: int
) -> list[Collective]:
    """Of one optimizer step in so many passes, as DeepSpeed 0.19.8 makes them. Everything is float32.

    Stage 0 sums gradients once. Stage 1 sums them once and gathers the new weights. Stage 2 sums them in
    every pass, as no worker keeps more than its part. Stage 3 gathers weights in every pass – once more for
    the backward pass where they do not stay whole – and scatters gradients; the small tensors, which every
    worker holds whole, it gathers once.

    Args:
        sizes: elements of each trained parameter, in the optimizer's groups.
    """
    if workers == 1:
        return []
    whole = FLOAT * sum(map(sum, sizes))
    if settings.stage == 0:
        return [Collective("all_reduce", whole)]
    if settings.stage == 1:
        return [Collective("all_reduce", whole), Collective("all_gather", whole)]
    if settings.stage == 2:
        return [Collective("all_reduce", passes * whole), Collective("all_gather", whole)]
    limit = settings.param_persistence_threshold
    small = FLOAT * sum(size for group in sizes for size in group if size <= limit)
    times = 1 if whole <= FLOAT * LIVE else 2
    gathered = passes * times * (whole - small) + small  # the small ones once, when they are new
    return [Collective("all_gather", gathered), Collective("reduce_scatter", passes * whole)]


def seconds(collective: Collective, workers: int, gpu: Gpu, network: Network) -> float:
    """How long it takes by the α–β model: messages · steps · α + bytes on the wire / β.

    Within a node a ring; between nodes each GPU of a node has a ring of its own with its like, over a part of
    the bytes. (The costs of collectives: Thakur, Rabenseifner, Gropp 2005.)
    """
    inside = min(workers, gpu.per_node)
    nodes = math.ceil(workers / gpu.per_node)
    rounds = 2 if collective.operation == "all_reduce" else 1
    messages = max(1, math.ceil(collective.bytes / MESSAGE))
    time = rounds * (inside - 1) / inside * collective.bytes / gpu.link_bandwidth
    time += rounds * (inside - 1) * LINK_LATENCY * messages
    time += rounds * (nodes - 1) / nodes * collective.bytes / inside / network.bandwidth
    # Between many nodes a tree is the faster way for short messages, and its latency is what counts then.
    return time + rounds * math.ceil(math.log2(nodes)) * network.latency * messages
