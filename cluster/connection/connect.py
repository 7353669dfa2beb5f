"""Connection to a running Ray cluster, or to a private one that lives as long as it is needed."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import chdir, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from cluster.connection.sessions import session_folder

PRETRAIN = "pretrain"
FINETUNE = "finetune"
"""Custom Ray resources that separate the two kinds of work. A node offers one of them or both."""
HEAD = "node:__internal_head__"
"""Ray's built-in resource of the head node."""
ANSWER_SECONDS = 10.0
STARTS = 3
"""Attempts to start a private cluster before giving up."""


@contextmanager
def ray_cluster(
    address: str | None, *, pretrain_workers: int = 0, finetune_slots: int = 0, cpus_per_worker: int = 1
) -> Iterator[None]:
    """Connect to the cluster at ``address``, or start a private one; disconnect and clean up at the end.

    Args:
        address: address of a running cluster; ``None`` starts a private one with the resources below.
        pretrain_workers: number of pretraining workers that the private cluster has room for.
        finetune_slots: number of fine-tuning jobs that it has room for in addition.
        cpus_per_worker: logical CPUs per worker or job.

    Raises:
        ConnectionError: when nothing answers at ``address``, or a private one does not start.
        PermissionError: when the cluster requires another token.
    """
    if address is not None:
        _check_answers(address)
    else:
        # A new token for each cluster, in the environment: Ray would write one to a world-readable file,
        # while its ports are open to all users of the machine.
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    # An additional process that watches for drained nodes, which the supervisor does itself.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # Interval of the health checks, in which workers notice signals and we notice that they have ended.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
    read_token_again()
    if address is not None:
        _check_token(address)
    import ray

    with session_folder() as session:
        try:
            # Ray puts the driver's folder on the workers' import path, before our packages: if it held a
            # data.py, workers would import that file.
            with chdir(session):
                if address is None:
                    _start_patiently(
                        address="local",  # otherwise Ray joins the cluster that RAY_ADDRESS names
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
            _take_sigterm_back()
            yield
        except SystemExit:
            signal.alarm(0)  # SIGTERM before that, after which Ray aborts this process within 3 s
            raise
        finally:
            ray.shutdown()


def _take_sigterm_back() -> None:
    """Let Python alone handle SIGTERM: Ray's native handler prints a stack trace and aborts 3 s later."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def read_token_again() -> None:
    """Have Ray read ``RAY_AUTH_MODE`` and ``RAY_AUTH_TOKEN`` again.

    Ray reads them once per process, but a process may use several clusters.
    """
    import ray
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    if not ray.is_initialized():  # otherwise the configuration is the cluster's
        Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _start_patiently(**options: Any) -> None:
    """Call ``ray.init``, again if the machine was too slow for it.

    Ray gives its own processes 30 seconds, which cannot be changed, then raises a bare ``Exception`` and
    leaves the processes running.
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
    """Check that the port is open: Ray itself would wait for minutes."""
    target = host_and_port(address)
    if target is not None:  # Ray finds "auto" and "local" itself
        try:
            socket.create_connection(target, timeout=ANSWER_SECONDS).close()
        except OSError as error:
            raise ConnectionError(f"no Ray cluster answers at {address} ({error})") from None


def _check_token(address: str) -> None:
    """Ask the cluster something small with our token: Ray itself would try a wrong one for half a minute."""
    import grpc
    from ray._private.services import canonicalize_bootstrap_address
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError

    if address.startswith("ray://"):
        target, question = address.removeprefix("ray://"), "/ray.rpc.RayletDriver/ClusterInfo"
    else:
        target = canonicalize_bootstrap_address(address) or ""
        question = "/ray.rpc.NodeInfoGcsService/GetClusterId"
    token = AuthenticationTokenLoader.instance()
    try:
        header = token.get_token_for_http_header() if token.has_token() else {}
        with grpc.insecure_channel(target) as channel:
            channel.unary_unary(question)(b"", metadata=tuple(header.items()), timeout=ANSWER_SECONDS)
    except AuthenticationError:
        refused = True
    except grpc.RpcError as error:  # whatever else is wrong, Ray says it better
        refused = error.code() is grpc.StatusCode.UNAUTHENTICATED
    else:
        refused = False
    if refused:
        cluster = target if address == "auto" else address
        raise PermissionError(
            f"the Ray cluster at {cluster} requires another token: set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN as they were when it was started"
        )


def host_and_port(address: str) -> tuple[str, int] | None:
    """Host and port in the address of a Ray cluster, ``None`` if it lacks one of them."""
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    with suppress(ValueError):  # the port is no number
        if parts.hostname and parts.port:
            return parts.hostname, parts.port
    return None


def worker_environment(cpus_per_worker: int) -> dict[str, str]:
    """Environment variables for a worker process: Ray does not pass on those of the driver.

    Everybody on the machine may read them: :mod:`cluster.connection.credentials` hands over the others.
    """
    return {"OMP_NUM_THREADS": str(cpus_per_worker), "TOKENIZERS_PARALLELISM": "false"}
