"""Room on the cluster: how many workers fit, waiting for resources, and noticing when more workers fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from cluster.connection.connect import PRETRAIN
from cluster.settings import ClusterSettings, PretrainSettings

LOOK_SECONDS = 1.0
SETTLE_SECONDS = 20.0
"""Seconds that the resources of an ended group may take to become free."""
NAMED_NODES = 4
SAY_SECONDS = 600.0
"""A waiting run repeats its message when something changes, and otherwise at this interval."""

Nodes = Iterable[Mapping[str, float]]
"""Amount of each resource, for each node."""


class NoRoomError(Exception):
    """The cluster is too small and will not grow."""


def worker_resources(cluster: ClusterSettings) -> dict[str, float]:
    """Resources of one worker, all of them on one node."""
    wanted = {"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker, PRETRAIN: 1}
    return {name: float(amount) for name, amount in wanted.items() if amount}


def places(worker: Mapping[str, float], nodes: Nodes) -> int:
    """Number of workers that fit on the nodes."""
    total = 0
    for node in nodes:
        # Ray counts in units of 1/10000, so that a sum of parts may be slightly less than the whole.
        total += min(int((node.get(name, 0.0) + 1e-6) // amount) for name, amount in worker.items())
    return total


def largest(sizes: Iterable[int], room: int) -> int | None:
    """The largest of the allowed group sizes that fits, if any does."""
    return max((size for size in sizes if size <= room), default=None)


def lacking(cluster: ClusterSettings, fewest: int, nodes: Nodes) -> str:
    """Describe in one line what a run that needs at least ``fewest`` workers waits for."""
    worker = worker_resources(cluster)
    usable = [node for node in nodes if PRETRAIN in node]
    amounts = _amounts(worker, worker)
    wanted = f"{fewest} workers of {amounts} each are" if fewest > 1 else f"1 worker of {amounts} is"
    free = [_amounts(worker, node) for node in usable[:NAMED_NODES]]
    more = f", and {len(usable) - NAMED_NODES} more nodes" if len(usable) > NAMED_NODES else ""
    on_nodes = "free are " + "; ".join(free) + more if free else f"no node has a {PRETRAIN} free"
    room = places(worker, usable)
    return f"{wanted} wanted, {room} {'fits' if room == 1 else 'fit'} now: {on_nodes}"


def _amounts(names: Iterable[str], resources: Mapping[str, float]) -> str:
    return " and ".join(f"{resources.get(name, 0.0):g} {name}" for name in names)


def wait(
    settings: PretrainSettings, ours: int, say: Callable[[str], None], give_up: Callable[[], None]
) -> int:
    """Wait until the cluster has room for the run.

    Args:
        ours: number of workers of the group that has just ended. What it still holds is released.
        say: called with a line on what is lacking.
        give_up: called repeatedly; an exception from it ends the wait.

    Returns:
        The largest allowed number of workers that fits.

    Raises:
        NoRoomError: when the run's private cluster is too small.
    """
    cluster, sizes = settings.cluster, settings.world_sizes
    worker, fewest = worker_resources(cluster), min(sizes)
    _release()
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


def _release() -> None:
    """Remove the placement groups that this command's ended worker groups have left, and any workers in them.

    Ray Train leaves one when a group fails while it starts, or when its controller dies, and Ray keeps the
    resources for it for as long as the command is connected.
    """
    import ray
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    command = ray.get_runtime_context().get_job_id()  # with which all of its ids end
    for name, group in placement_group_table().items():
        if name.endswith(command) and group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(name)))


def _queue(
    cluster: ClusterSettings, workers: int, say: Callable[[str], None], give_up: Callable[[], None]
) -> None:
    """Wait in Ray's queue, where an autoscaler and ``odeformer jobs`` can see it, until there is room."""
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
    """Notices when a group with fewer than ``cluster.workers`` workers could have more."""

    def __init__(self, settings: PretrainSettings, workers: int) -> None:
        self._settings = settings
        self._workers = workers
        self._looked = 0.0
        self._since: float | None = None
        self._size: int | None = None

    def look(self) -> int | None:
        """The larger group size, once there has been room for it for ``cluster.grow_after`` seconds."""
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
    from ray._private import state  # no public function returns it per node

    return _usable(state.available_resources_per_node())


def _whole() -> list[dict[str, float]]:
    from ray._private import state

    return _usable(state.total_resources_per_node())


def freest_node() -> str:
    """Id of the node, of those for pretraining, with the most free CPUs."""
    from ray._private import state

    free, whole = state.available_resources_per_node(), _usable_nodes(state.total_resources_per_node())
    return max(
        (node for node, resources in whole.items() if PRETRAIN in resources),
        key=lambda node: free.get(node, {}).get("CPU", 0.0),
    )


def is_any_leaving(nodes: Iterable[str]) -> bool:
    """Whether one of these nodes is being drained, that is, about to be removed."""
    return not _leaving().isdisjoint(nodes)


def _usable(nodes: Mapping[str, dict[str, float]]) -> list[dict[str, float]]:
    return list(_usable_nodes(nodes).values())


def _usable_nodes(nodes: Mapping[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    leaving = _leaving()
    return {node: resources for node, resources in nodes.items() if node not in leaving}


def _leaving() -> set[str]:
    from ray._private import state

    return set(state.state.get_draining_nodes())
