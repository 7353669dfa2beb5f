"""A Ray cluster to work on: one that runs already, or a private one for as long as it is needed."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import chdir, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from cluster.connection.sessions import session_folder

PRETRAIN = "pretrain"
FINETUNE = "finetune"
"""Custom resources that keep the two kinds of work apart: a node offers one, the other, or both."""
STARTS = 3
"""Of a private cluster, before a machine is called too busy for one."""


@contextmanager
def ray_cluster(
    address: str | None, *, pretrain_workers: int = 0, finetune_slots: int = 0, cpus_per_worker: int = 1
) -> Iterator[None]:
    """Connect to the cluster at ``address``, or start a private one, and leave nothing behind at the end.

    Args:
        address: of a running cluster; ``None`` starts a private one with the resources below.
        pretrain_workers: pretraining workers the private cluster has room for.
        finetune_slots: fine-tuning jobs it has room for, beside the workers.
        cpus_per_worker: logical CPUs of each of them.

    Raises:
        ConnectionError: when nothing answers at ``address``, or a private one does not start.
    """
    if address is not None:
        _check_answers(address)
    else:
        # A token of its own for each cluster, in the environment: Ray would write one to a file that
        # everybody on the machine can read, and its ports are open to all of them.
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    # One more process that waits for a node to be drained: the supervisor looks for that itself.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # How often a worker is asked how it is: that is when it notices a signal, and when we notice its end.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
    read_token_again()
    import ray

    with session_folder() as session:
        try:
            # Ray puts the driver's folder on its workers' import path, before our packages: from a folder
            # that holds a data.py, workers would import that file.
            with chdir(session):
                if address is None:
                    _start_patiently(
                        num_cpus=(pretrain_workers + finetune_slots) * cpus_per_worker,
                        resources={PRETRAIN: pretrain_workers, FINETUNE: finetune_slots},
                        include_dashboard=False,
                        log_to_driver=False,
                        logging_level="error",
                        _temp_dir=str(session),
                        object_store_memory=256 * 2**20,
                    )
                else:
                    ray.init(address=address, log_to_driver=False, logging_level="error")
            yield
        finally:
            ray.shutdown()


def read_token_again() -> None:
    """Have ``RAY_AUTH_MODE`` and ``RAY_AUTH_TOKEN`` count as they are now.

    Ray reads them once per process, and a process may come to know several clusters.
    """
    import ray
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    if not ray.is_initialized():  # the rest of a connected process's configuration is its cluster's
        Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _start_patiently(**options: Any) -> None:
    """``ray.init``, again where a busy machine was too slow for it.

    Ray gives its own processes 30 seconds, which cannot be changed, raises a bare ``Exception`` after that
    and leaves them to the end of this process.
    """
    import psutil
    import ray

    this = psutil.Process()
    others = this.children(recursive=True)
    for _ in range(STARTS):
        try:
            ray.init(**options)
            return
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
        for process in set(this.children(recursive=True)) - set(others):
            with suppress(psutil.NoSuchProcess):
                process.kill()
                process.wait()
    raise ConnectionError(
        f"Ray did not start within 30 s, {STARTS} times: the machine is too busy or short of memory"
    )


def _check_answers(address: str) -> None:
    """Ray itself would wait for minutes where nobody listens."""
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.hostname and port:  # "auto" and "local" are not places
        try:
            socket.create_connection((parts.hostname, port), timeout=10).close()
        except OSError as error:
            raise ConnectionError(f"no Ray cluster answers at {address} ({error})") from None


def worker_environment(cpus_per_worker: int) -> dict[str, str]:
    """Environment variables for a worker process, by name: Ray does not pass on the driver's."""
    passed = ("MLFLOW_TRACKING_", "MLFLOW_S3_", "AWS_")  # where the store is, and who may use it
    environment = {name: value for name, value in os.environ.items() if name.startswith(passed)}
    return {**environment, "OMP_NUM_THREADS": str(cpus_per_worker), "TOKENIZERS_PARALLELISM": "false"}
