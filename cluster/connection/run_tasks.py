"""Build shards with all workers of a Ray cluster: each task of the build is a Ray task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cluster.connection.connect import worker_environment
from cluster.runs.failures import RunFailedError, cause

RETRIES = 3
"""How often a task is tried again whose worker has died; it writes the same bytes."""
CANCEL_SECONDS = 30.0
IN_FLIGHT = 2
"""Tasks that are with Ray for each worker: the next is there when one ends, and a million do not queue."""


def run_on_ray(workers: int) -> Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]:
    """A ``run`` for :func:`data.shards.build`: results as they come. Ray must be connected.

    Sources, the folder that is made and its neighbours have to be visible from every node.

    Args:
        workers: tasks that run at the same time, each on one CPU.
    """

    def run(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        import ray

        # exit codes of a killed worker are retried by Ray; an exception is the task's own and is not.
        task = ray.remote(num_cpus=1, max_retries=RETRIES, retry_exceptions=False)(function).options(
            runtime_env={"env_vars": worker_environment(1)}
        )
        waiting = iter(items)
        running: set[Any] = set()
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
            if running:  # whoever clears up after them must not meet one that still writes
                ray.wait(list(running), num_returns=len(running), timeout=CANCEL_SECONDS)

    return run


def _result(reference: Any) -> Any:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        # The user's mistakes keep their kind, and with it their line and exit code.
        if isinstance(error.cause, ValueError | OSError):
            raise error.cause from None
        raise RunFailedError(f"a task of the build failed: {cause(error)}") from None
    except ray.exceptions.RayError as error:
        raise RunFailedError(f"a task of the build failed: {cause(error)}") from None


def cluster_cpus() -> int:
    """CPUs of the cluster that is connected, at least 1."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))
