"""Building shards on a Ray cluster: each task of the build is a Ray task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from cluster.connection import credentials
from cluster.connection.connect import worker_environment
from cluster.runs.failures import RunFailedError, cause

RETRIES = 3
"""How often a task whose worker died is repeated; it writes the same bytes again."""
CANCEL_SECONDS = 30.0
IN_FLIGHT = 2
"""Submitted tasks per worker: enough to keep it busy, without a queue of a million."""


def run_on_ray(
    workers: int, folder: Path | None = None
) -> Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]:
    """A function to pass as ``run`` to :func:`data.shards.build`. Ray must be connected.

    It yields results as they complete. Sources and output must be visible from every node.

    Args:
        workers: number of tasks that run at the same time, each on one CPU.
        folder: a folder that all nodes see, for the credentials of remote sources; none are handed over by
            default.
    """

    def run(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        import ray

        def work(item: Any) -> Any:
            if folder is not None:
                credentials.take(folder)
            return function(item)

        # Ray repeats tasks of killed workers. An exception of the task itself is not repeated.
        task = ray.remote(num_cpus=1, max_retries=RETRIES, retry_exceptions=False)(work).options(
            runtime_env={"env_vars": worker_environment(1)}
        )
        waiting = iter(items)
        running: set[Any] = set()
        with nullcontext() if folder is None else credentials.handed_over(folder):
            try:
                while True:
                    for item in waiting:
                        running.add(task.remote(item))
                        if len(running) >= IN_FLIGHT * workers:
                            break
                    if not running:
                        return
                    ended, _ = ray.wait(list(running), num_returns=1)
                    for reference in ended:
                        running.remove(reference)
                        yield _result(reference)
            finally:
                for reference in running:
                    ray.cancel(reference, force=True)
                if running:  # cleaning up must not meet a task that is still writing
                    ray.wait(list(running), num_returns=len(running), timeout=CANCEL_SECONDS)

    return run


def _result(reference: Any) -> Any:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        # Mistakes of the user keep their type, and so their message and exit code.
        if isinstance(error.cause, ValueError | OSError):
            raise error.cause from None
        raise RunFailedError(f"a task of the build failed: {cause(error)}") from None
    except ray.exceptions.RayError as error:
        raise RunFailedError(f"a task of the build failed: {cause(error)}") from None


def cluster_cpus() -> int:
    """Number of CPUs of the connected cluster, at least 1."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))
