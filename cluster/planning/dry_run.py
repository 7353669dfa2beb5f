"""What a pretraining run would do, without starting it: its placement, and what a worker's memory goes to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from cluster.connection.connect import ray_cluster
from cluster.connection.jobs import lacking
from cluster.settings import PretrainSettings
from cluster.supervision.room import places, worker_resources
from cluster.training.memory import Memory, parameter_sizes, unallocated, worker_memory
from cluster.training.zero import deepspeed_config


@dataclass(frozen=True)
class Node:
    """A machine of a cluster: all it offers, free or not, and how many workers that is room for."""

    name: str
    resources: dict[str, float]
    workers: int


@dataclass(frozen=True)
class Placement:
    """Where the workers of a run would be."""

    workers: int
    each: dict[str, float]
    """The resources that each of them asks for."""
    nodes: tuple[Node, ...]
    """Of the cluster; this machine, where a private one would be started."""
    lacks: str
    """What there is not enough of at the moment, as ``pretrain: 4 wanted, 1 free of 2``; or nothing."""


@dataclass(frozen=True)
class DryRun:
    """A run that has been checked, and not started."""

    settings: PretrainSettings
    deepspeed: dict[str, Any]
    placement: Placement
    memory: Memory
    """Of one worker."""

    def content(self) -> dict[str, Any]:
        """As plain values, for programs."""
        placement = self.placement
        return {
            "settings": self.settings.model_dump(mode="json"),
            "deepspeed": self.deepspeed,
            "placement": {
                "workers": placement.workers,
                "each": placement.each,
                "nodes": [vars(node) for node in placement.nodes],
                "lacks": placement.lacks,
            },
            "memory": self.memory._asdict(),
        }


def dry_run(settings: PretrainSettings) -> DryRun:
    """Of a run; with ``cluster.address`` that cluster is asked what it has.

    Args:
        settings: as :func:`cluster.pretrain.check` gave them.

    Raises:
        ConnectionError: when no cluster answers at the address.
    """
    workers = settings.cluster.workers
    parameters = sum(map(sum, parameter_sizes(unallocated(settings), settings.optim)))
    return DryRun(
        settings,
        deepspeed_config(settings.train, settings.optim, settings.zero, workers, parameters),
        _placement(settings),
        worker_memory(settings),
    )


def _placement(settings: PretrainSettings) -> Placement:
    cluster = settings.cluster
    each = worker_resources(cluster)
    if cluster.address is None:
        # A private cluster offers what the run asks for; CPUs are logical. GPUs are found by Ray.
        here: dict[str, float] = {"CPU": float(os.cpu_count() or 1)}
        return Placement(cluster.workers, each, (Node("this machine", here, cluster.workers),), "")
    with ray_cluster(cluster.address):
        import ray

        alive = [node for node in ray.nodes() if node["Alive"]]
        free, there = ray.available_resources(), ray.cluster_resources()
    nodes = [
        Node(node["NodeManagerAddress"], known, places(each, [known]))
        for node in alive
        for known in [{name: node["Resources"].get(name, 0.0) for name in each}]
    ]
    wanted = {name: amount * cluster.workers for name, amount in each.items()}
    taken = {name: there.get(name, 0.0) - free.get(name, 0.0) for name in each}
    is_short = any(amount > there.get(name, 0.0) - taken[name] for name, amount in wanted.items())
    is_short |= sum(node.workers for node in nodes) < cluster.workers
    return Placement(cluster.workers, each, tuple(nodes), lacking(wanted, taken, there) if is_short else "")
