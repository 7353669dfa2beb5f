"""Communication between workers in an optimizer step: bytes by ZeRO stage, and time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Literal, NamedTuple

from cluster.planning.hardware import LINK_LATENCY, Gpu, Network
from cluster.settings import ZeroSettings
from cluster.training import zero
from cluster.training.memory import FLOAT, LIVE

Operation = Literal["all_reduce", "all_gather", "reduce_scatter"]
MESSAGE = zero.BUCKET * FLOAT
"""Maximum bytes per message."""


class Collective(NamedTuple):
    """All messages of one collective operation in a step, with their total bytes before partitioning."""

    operation: Operation
    bytes: int


def collectives(
    sizes: Sequence[Sequence[int]], settings: ZeroSettings, workers: int, passes: int
) -> list[Collective]:
    """The collectives of one optimizer step in DeepSpeed 0.19.8. Everything is float32.

    Stage 0 reduces the gradients once. Stage 1 does the same and gathers the new weights. Stage 2 reduces the
    gradients in every pass, as each worker keeps only its part. Stage 3 gathers the weights in every pass, a
    second time for the backward pass unless they stay gathered, and scatters the gradients; small tensors,
    which every worker holds unpartitioned, are gathered once.

    Args:
        sizes: elements of each trained parameter, by optimizer group.
        passes: forward and backward passes per optimizer step.
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
    small = FLOAT * sum(size for size in chain.from_iterable(sizes) if size <= limit)
    times = 1 if whole <= FLOAT * LIVE else 2
    gathered = passes * times * (whole - small) + small  # small ones once, after the update
    return [Collective("all_gather", gathered), Collective("reduce_scatter", passes * whole)]


def seconds(collective: Collective, workers: int, gpu: Gpu, network: Network) -> float:
    """Seconds of a collective by the α–β model: messages · steps · α + bytes on the wire / β.

    The model is a ring within each node, and between nodes a ring per GPU of a node, each over its part of
    the bytes. (For the costs of collectives see Thakur, Rabenseifner and Gropp 2005.)
    """
    inside = min(workers, gpu.per_node)
    nodes = math.ceil(workers / gpu.per_node)
    rounds = 2 if collective.operation == "all_reduce" else 1
    messages = max(1, math.ceil(collective.bytes / MESSAGE))
    time = rounds * (inside - 1) / inside * collective.bytes / gpu.link_bandwidth
    time += rounds * (inside - 1) * LINK_LATENCY * messages
    time += rounds * (nodes - 1) / nodes * collective.bytes / inside / network.bandwidth
    # Between many nodes a tree is faster for short messages, for which the latency dominates.
    return time + rounds * math.ceil(math.log2(nodes)) * network.latency * messages
