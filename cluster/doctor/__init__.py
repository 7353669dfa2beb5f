"""What would break a run here: this machine, and what it is to reach. Nothing is started or changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from cluster.doctor import libraries, locks, machine, mlflow_store, ray_cluster
from cluster.doctor.finding import Finding

__all__ = ["Finding", "examine"]


def examine(address: str | None, tracking_uri: str | None) -> Iterator[Finding]:
    """Look at everything at once, and tell it in a fixed order, as soon as it is known.

    Args:
        address: of a Ray cluster, ``host:6379``, ``ray://host:10001`` or ``http://host:8265``; none is looked
            at when not given.
        tracking_uri: of the MLflow store; ``MLFLOW_TRACKING_URI``, else ``runs/mlflow.db`` here.
    """
    checks: list[Callable[[], list[Finding]]] = [
        machine.python,
        libraries.look,
        machine.compilers,
        lambda: ray_cluster.look(address),
        ray_cluster.token,
        lambda: mlflow_store.look(tracking_uri),
        machine.disk,
        machine.shared_memory,
        lambda: machine.clock(address, tracking_uri),
        locks.of_extensions,
        locks.of_runs,
        locks.of_sessions,
    ]
    with ThreadPoolExecutor(len(checks)) as threads:
        for begun in [threads.submit(check) for check in checks]:
            yield from begun.result()
