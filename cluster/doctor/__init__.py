"""Diagnosis of this machine and of the services it uses. Nothing is started or changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from cluster.doctor import libraries, locks, machine, mlflow_store, ray_cluster
from cluster.doctor.finding import Finding

__all__ = ["Finding", "examine"]


def examine(address: str | None, tracking_uri: str | None) -> Iterator[Finding]:
    """Run all checks concurrently and yield their findings in a fixed order.

    Args:
        address: address of a Ray cluster to check, ``host:6379``, ``ray://host:10001`` or
            ``http://host:8265``.
        tracking_uri: URI of the MLflow store, by default ``MLFLOW_TRACKING_URI``, else ``runs/mlflow.db``.
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
        for future in [threads.submit(check) for check in checks]:
            yield from future.result()
