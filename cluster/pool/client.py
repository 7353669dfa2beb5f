"""A handle on the pool of a cluster: submit, look, wait, cancel."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from cluster.connection.connect import ray_cluster, worker_environment
from cluster.pool.settings import PoolSettings
from cluster.pool.states import ENDED
from cluster.tasks.task import Task

ACTOR_NAME, NAMESPACE = "odeformer-pool", "odeformer"
ANSWER_SECONDS = 90.0
"""A pool that was killed is back within seconds; if it has to wait for its journal, later."""
HEAD = "node:__internal_head__"
"""Ray's own resource of the head node."""


class Pool:
    """The pool of a cluster. Usable as a context manager, which lets go of the connection, not of the pool.

    A job is a dictionary: ``id``, ``name``, ``team``, ``state`` (:data:`~cluster.pool.states.STATES`),
    ``reason``, ``priority``, ``deadline``, ``base``, ``task``, ``folder``, ``submitted`` and ``changed``
    (seconds since the epoch), ``attempts``, ``together_with`` (the jobs that share its slot), ``waits_for``
    (of a queued one), and at its end ``result`` (a ``FinetuneResult`` as a dictionary) or ``error``.
    """

    def __init__(self, actor: Any, connection: ExitStack) -> None:
        self._actor, self._connection = actor, connection

    @classmethod
    def connect(cls, address: str | None = None) -> Pool:
        """The pool that runs on a cluster.

        Args:
            address: of the cluster, ``host:6379`` or ``ray://host:10001``; the one that Ray is connected to,
                else that of this machine, when not given.

        Raises:
            ConnectionError: when there is no cluster, or no pool on it.
        """
        connection = _connected(address)
        import ray

        try:
            actor = ray.get_actor(ACTOR_NAME, namespace=NAMESPACE)
        except ValueError:
            connection.close()
            raise ConnectionError(
                "there is no pool on this cluster: start one with odeformer pool start"
            ) from None
        return cls(actor, connection)

    @classmethod
    def start(cls, settings: PoolSettings, address: str | None = None) -> Pool:
        """Start the pool of a cluster; one that is there already takes the settings.

        It outlives this process, and goes on with what the journal in ``settings.dir`` holds. It is on the
        head node: there the journal is on a disk that is there for as long as the cluster is.

        Raises:
            ConnectionError: when there is no cluster.
            ValueError: when the pool that is there has another ``dir``, or for a store that the cluster of
                another machine cannot reach.
            BlockingIOError: when a pool of another cluster has the journal.
        """
        import ray

        from cluster.tracking import store

        uri = store.tracking_uri(settings.tracking_uri)
        if (address or "").startswith("ray://") and uri.startswith(store.SQLITE):
            raise ValueError(
                f"tracking_uri: {uri} is a file of this machine, and the pool is asked to run at {address}: "
                "name a store that the cluster can reach"
            )
        settings = settings.model_copy(update={"dir": settings.dir.absolute(), "tracking_uri": uri})
        from cluster.pool.actor import PoolActor

        connection = _connected(address)
        content = settings.model_dump(mode="json")
        actor = (
            ray.remote(PoolActor)
            .options(
                name=ACTOR_NAME,
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                max_restarts=-1,
                max_task_retries=-1,
                max_concurrency=16,
                num_cpus=0,
                resources={HEAD: 0.001},
                runtime_env={"env_vars": worker_environment(settings.cpus_per_job)},
            )
            .remote(content)
        )
        pool = cls(actor, connection)
        there = pool.status()["dir"]
        if there != content["dir"]:
            pool.close()
            raise ValueError(f"dir: the pool of this cluster is in {there}: stop it first, or give that dir")
        pool._ask("configure", content)
        return pool

    def submit(self, task: Task, *, again: bool = False) -> str:
        """Queue a task; the job's id.

        Args:
            task: paths in it must mean the same on the nodes that run jobs.
            again: let it have the name of a job that has ended.

        Raises:
            ValueError, FileNotFoundError: naming the field, when the task cannot run or the pool does not
                take it, before anything is queued.
        """
        from cluster.finetuning import job

        checked = job.check(task, self.uri())
        return str(self._ask("submit", checked.model_dump(mode="json"), uuid.uuid4().hex, again))

    def uri(self) -> str:
        """The MLflow store of its jobs."""
        return str(self._ask("uri"))

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs, in the order in which they were submitted."""
        return list(self._ask("jobs"))

    def find(self, name: str) -> str:
        """The id of the job that is meant by ``name``, ``team/name`` or ``team/name/number``; the latest one.

        Raises:
            ValueError: when there is none, or jobs of several teams.
        """
        jobs = self.jobs()
        found = [job for job in jobs if name in (job["id"], f"{job['team']}/{job['name']}", job["name"])]
        if not found:
            there = ", ".join(dict.fromkeys(f"{job['team']}/{job['name']}" for job in jobs[-10:])) or "none"
            raise ValueError(f"no job {name!r} in the pool; the latest: {there}")
        teams = sorted({job["team"] for job in found})
        if len(teams) > 1:
            raise ValueError(f"teams {', '.join(teams)} have a job {name!r}: say TEAM/{name}")
        return str(found[-1]["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        """One job, with ``history`` and the ``last_lines`` that it printed."""
        return dict(self._ask("job", job_id))

    def events(self, job_id: str, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        """A job's events from an offset on, and where the next ones begin."""
        events, end = self._ask("events", job_id, offset)
        return events, end

    def cancel(self, job_id: str) -> str:
        """Cancel a job; its state, which stays ``running`` until its step is committed."""
        return str(self._ask("cancel", job_id))

    def retry(self, job_id: str) -> str:
        """Queue a job again that failed or was cancelled; its state."""
        return str(self._ask("retry", job_id))

    def status(self) -> dict[str, Any]:
        """Slots, teams, and what the pool is doing."""
        return dict(self._ask("status"))

    def transitions(self) -> list[tuple[Any, ...]]:
        """All changes of state: number, time, job, team, state, reason, process."""
        return list(self._ask("transitions"))

    def wait(self, *ids: str, poll_seconds: float = 0.3) -> list[dict[str, Any]]:
        """The jobs with these ids, once all have ended."""
        while True:
            jobs = {job["id"]: job for job in self.jobs()}
            chosen = [jobs[job_id] for job_id in ids]
            if all(job["state"] in ENDED for job in chosen):
                return chosen
            time.sleep(poll_seconds)

    def drain(self) -> None:
        """Have it begin no more jobs and take none; those that run go on."""
        self._ask("drain")

    def stop(self, on_wait: Callable[[int], object] = lambda running: None) -> None:
        """End the pool: jobs that run commit their step and are queued again; the journal stays.

        Args:
            on_wait: called with how many jobs still run, again and again.
        """
        import ray

        while running := int(self._ask("stop")):
            on_wait(running)
            time.sleep(0.3)
        ray.kill(self._actor, no_restart=True)

    def close(self) -> None:
        """Let go of the connection to Ray, if it was made for this handle."""
        self._connection.close()

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, method: str, *arguments: Any) -> Any:
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

        try:
            return ray.get(getattr(self._actor, method).remote(*arguments), timeout=ANSWER_SECONDS)
        except RayTaskError as error:
            raise error.cause from None
        except GetTimeoutError:
            raise ConnectionError(f"the pool has not answered for {ANSWER_SECONDS:.0f} s") from None
        except RayActorError as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            if any("in use by another pool" in line for line in lines):
                raise BlockingIOError(lines[-1].partition(": ")[2]) from None
            raise ConnectionError(f"the pool is gone: {lines[-1]}") from None


def _connected(address: str | None) -> ExitStack:
    """A connection to Ray that lasts until it is closed; nothing, where there is one already.

    Raises:
        ValueError: for the address of a dashboard.
        ConnectionError: when there is no cluster.
    """
    connection = ExitStack()
    if address is not None and address.startswith(("http://", "https://")):
        raise ValueError(
            f"address {address!r} is that of a dashboard: the pool is asked at host:6379, or from outside "
            "the cluster at ray://host:10001"
        )
    ray = sys.modules.get("ray")  # its import takes longer than to see that nobody answers
    if ray is None or not ray.is_initialized():
        connection.enter_context(ray_cluster(address or "auto"))
    return connection
