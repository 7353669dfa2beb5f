"""Room for workers: for how many the cluster has places, waiting for them, noticing that there are more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from cluster.connection.connect import PRETRAIN
from cluster.settings import ClusterSettings, PretrainSettings

LOOK_SECONDS = 1.0
SETTLE_SECONDS = 20.0
"""How long what an ended group had may take to be free again."""
NAMED_NODES = 4
SAY_SECONDS = 600.0
"""A run that waits says so, again when something has changed, and else after so long."""

Nodes = Iterable[Mapping[str, float]]
"""What each node has of each resource."""


class NoRoomError(Exception):
    """There is no room, and there never will be."""


def worker_resources(cluster: ClusterSettings) -> dict[str, float]:
    """What each worker takes, all of it on one node."""
    wanted = {"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker, PRETRAIN: 1}
    return {name: float(amount) for name, amount in wanted.items() if amount}


def places(worker: Mapping[str, float], nodes: Nodes) -> int:
    """How many workers find a place, each on one node."""
    # Ray counts in ten-thousandths: a sum of parts may lack a little of the whole.
    return sum(
        min(int((node.get(name, 0.0) + 1e-6) // amount) for name, amount in worker.items()) for node in nodes
    )


def largest(sizes: Iterable[int], room: int) -> int | None:
    """The most workers that a group may have where there is room for so many; none if it may not start."""
    return max((size for size in sizes if size <= room), default=None)


def lacking(cluster: ClusterSettings, fewest: int, nodes: Nodes) -> str:
    """What a run that needs at least ``fewest`` workers waits for, in one line."""
    worker, there = worker_resources(cluster), [node for node in nodes if PRETRAIN in node]
    amounts = _amounts(worker, worker)
    wanted = f"{fewest} workers of {amounts} each are" if fewest > 1 else f"1 worker of {amounts} is"
    free = [_amounts(worker, node) for node in there[:NAMED_NODES]]
    more = f", and {len(there) - NAMED_NODES} more nodes" if len(there) > NAMED_NODES else ""
    on_nodes = "free are " + "; ".join(free) + more if free else f"no node has a {PRETRAIN} free"
    room = places(worker, there)
    return f"{wanted} wanted, {room} {'fits' if room == 1 else 'fit'} now: {on_nodes}"


def _amounts(names: Iterable[str], resources: Mapping[str, float]) -> str:
    return " and ".join(f"{resources.get(name, 0.0):g} {name}" for name in names)


def wait(
    settings: PretrainSettings, ours: int, say: Callable[[str], None], give_up: Callable[[], None]
) -> int:
    """The largest number of workers that the run may have and the cluster has room for, once it has any.

    Args:
        ours: so many workers' places are about to be free again: those of a group that has just ended.
        say: called with what is lacking.
        give_up: called again and again; what it raises ends the waiting.

    Raises:
        NoRoomError: when the run's own cluster, which gets no other nodes, is too small.
    """
    cluster, sizes = settings.cluster, settings.world_sizes
    worker, fewest = worker_resources(cluster), min(sizes)
    while True:
        until = time.monotonic() + SETTLE_SECONDS
        while places(worker, _free()) < min(ours, places(worker, _whole())) and time.monotonic() < until:
            give_up()
            time.sleep(LOOK_SECONDS)
        size = largest(sizes, places(worker, _free()))
        if size is not None:
            return size
        if cluster.address is None and places(worker, _whole()) < fewest:
            raise NoRoomError(lacking(cluster, fewest, _free()))
        _queue(cluster, fewest, say, give_up)
        ours = fewest


def _queue(
    cluster: ClusterSettings, workers: int, say: Callable[[str], None], give_up: Callable[[], None]
) -> None:
    """Stand in Ray's queue, where an autoscaler and whoever lists jobs can see it, until there is room."""
    from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

    said, said_at = "", 0.0
    group = placement_group([worker_resources(cluster)] * workers)
    try:
        while placement_group_table(group)["state"] != "CREATED":
            reason, now = lacking(cluster, workers, _free()), time.monotonic()
            if reason != said or now - said_at > SAY_SECONDS:
                say(reason)
                said, said_at = reason, now
            give_up()
            time.sleep(LOOK_SECONDS)
    finally:
        remove_placement_group(group)


class Growth:
    """Notices that a group which runs with fewer workers than wished could have more."""

    def __init__(self, settings: PretrainSettings, workers: int) -> None:
        self._settings = settings
        self._workers = workers
        self._looked = 0.0
        self._since: float | None = None
        self._size: int | None = None

    def look(self) -> int | None:
        """The larger number, when there has been room for more for ``cluster.grow_after`` seconds."""
        sizes, now = self._settings.world_sizes, time.monotonic()
        if self._workers >= max(sizes):
            return None
        if now - self._looked > LOOK_SECONDS:
            self._looked = now
            room = self._workers + places(worker_resources(self._settings.cluster), _free())
            self._size = largest(sizes, room)
            if self._size is None or self._size <= self._workers:
                self._since = None
            elif self._since is None:
                self._since = now
        is_lasting = self._since is not None and now - self._since >= self._settings.cluster.grow_after
        return self._size if is_lasting else None


def _free() -> list[dict[str, float]]:
    from ray._private import state  # it has no public name, and the sum over nodes says too little

    return _usable(state.available_resources_per_node())


def _whole() -> list[dict[str, float]]:
    from ray._private import state

    return _usable(state.total_resources_per_node())


def is_any_leaving(nodes: Iterable[str]) -> bool:
    """Whether one of these nodes is being drained: it will be taken away."""
    return not _leaving().isdisjoint(nodes)


def _usable(nodes: Mapping[str, dict[str, float]]) -> list[dict[str, float]]:
    leaving = _leaving()
    return [resources for node, resources in nodes.items() if node not in leaving]


def _leaving() -> set[str]:
    from ray._private import state

    return set(state.state.get_draining_nodes())
