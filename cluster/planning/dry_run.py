"""Dry run: placement, memory and DeepSpeed configuration of a pretraining run, without starting it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

from cluster.connection.connect import ray_cluster
from cluster.connection.job import lacking
from cluster.settings import PretrainSettings
from cluster.supervision.room import places, worker_resources
from cluster.training.memory import Memory, parameter_sizes, unallocated, worker_memory
from cluster.training.teacher import TeacherShape
from cluster.training.zero import deepspeed_config


@dataclass(frozen=True)
class Node:
    """A node of a cluster: its total resources, and the number of workers that they suffice for."""

    name: str
    resources: dict[str, float]
    workers: int


@dataclass(frozen=True)
class Placement:
    """Placement of the workers of a run."""

    workers: int
    each: dict[str, float]
    """Resources per worker."""
    nodes: tuple[Node, ...]
    """Nodes of the cluster, or this machine if a private one would be started."""
    lacks: str
    """Resources that are short at the moment, as ``pretrain: 4 wanted, 1 free of 2``; or empty."""


@dataclass(frozen=True)
class DryRun:
    """Result of a dry run."""

    settings: PretrainSettings
    deepspeed: dict[str, Any]
    placement: Placement
    memory: Memory
    """Memory of one worker."""

    def content(self) -> dict[str, object]:
        """The result as plain values, for JSON."""
        return {
            "settings": self.settings.model_dump(mode="json"),
            "deepspeed": self.deepspeed,
            "placement": asdict(self.placement),
            "memory": self.memory._asdict(),
        }


def dry_run(settings: PretrainSettings, teacher: TeacherShape | None = None) -> DryRun:
    """Plan a run without starting it. With ``cluster.address``, that cluster's resources are queried.

    Args:
        settings: those of a :class:`cluster.resolve.ResolvedRun`.
        teacher: shape of its teacher.

    Raises:
        ConnectionError: when no cluster answers at the address.
    """
    workers = settings.cluster.workers
    parameters = sum(map(sum, parameter_sizes(unallocated(settings), settings.optim)))
    return DryRun(
        settings,
        deepspeed_config(settings.train, settings.optim, settings.zero, workers, parameters),
        _placement(settings),
        worker_memory(settings, teacher),
    )


def _placement(settings: PretrainSettings) -> Placement:
    cluster = settings.cluster
    each = worker_resources(cluster)
    if cluster.address is None:
        # A private cluster offers what the run needs: its CPUs are only logical, and Ray finds GPUs.
        local: dict[str, float] = {"CPU": float(os.cpu_count() or 1)}
        return Placement(cluster.workers, each, (Node("this machine", local, cluster.workers),), "")
    with ray_cluster(cluster.address):
        import ray

        alive = [node for node in ray.nodes() if node["Alive"]]
        free, total = ray.available_resources(), ray.cluster_resources()

    nodes = []
    for node in alive:
        resources = {name: node["Resources"].get(name, 0.0) for name in each}
        nodes.append(Node(node["NodeManagerAddress"], resources, places(each, [resources])))

    wanted = {name: amount * cluster.workers for name, amount in each.items()}
    taken = {name: total.get(name, 0.0) - free.get(name, 0.0) for name in each}
    is_short = any(amount > free.get(name, 0.0) for name, amount in wanted.items())
    is_short |= sum(node.workers for node in nodes) < cluster.workers
    return Placement(cluster.workers, each, tuple(nodes), lacking(wanted, taken, total) if is_short else "")
