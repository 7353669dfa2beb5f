"""Client of a cluster's pool: submit, inspect, wait for and cancel jobs."""

from __future__ import annotations

import secrets
import sys
import time
import uuid
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from cluster.connection import credentials
from cluster.connection.connect import HEAD, ray_cluster, worker_environment
from cluster.names import who
from cluster.pool.access import AuditEntry, Key, Role
from cluster.pool.job import ENDED, Job, JobDetails, Transition, find_job
from cluster.pool.settings import PoolSettings
from cluster.pool.status import PoolStatus
from cluster.runs.events import LoggedEvent
from cluster.web.keys import hashed, new_key
from odeformer.files.shown import masked

if TYPE_CHECKING:
    from cluster.tasks.task import Task

ACTOR_NAME, NAMESPACE = "odeformer-pool", "odeformer"
ANSWER_SECONDS = 90.0
"""Timeout of a call. A pool that was killed is back within seconds, or later if it waits for its journal."""


class Pool:
    """Handle on a cluster's pool, and a context manager that closes the connection (the pool goes on)."""

    def __init__(self, actor: Any, connection: ExitStack, asked_by: str | None = None) -> None:
        self._actor, self._connection = actor, connection
        self._who = asked_by or who()

    @classmethod
    def connect(cls, address: str | None = None) -> Pool:
        """Connect to the pool that runs on a cluster.

        Args:
            address: the cluster's address, ``host:6379`` or ``ray://host:10001``; when not given, the cluster
                that Ray is connected to, or the one on this machine.

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
        """Start the pool of a cluster, or give new settings to one that is running.

        It outlives this process, and resumes from the journal in ``settings.dir``. It runs on the head node,
        whose disk lives as long as the cluster.

        Raises:
            ConnectionError: when there is no cluster.
            ValueError: when the running pool has another ``dir``, or a remote cluster could not reach the
                store.
            BlockingIOError: when a pool of another cluster holds the journal.
        """
        import ray

        from cluster.tracking import store

        uri = store.tracking_uri(settings.tracking_uri)
        if (address or "").startswith("ray://") and uri.startswith(store.SQLITE):
            raise ValueError(
                f"tracking_uri: {uri} is a file on this machine, but the pool would run at {address}: "
                "give a store that the cluster can reach"
            )
        settings = settings.model_copy(update={"dir": settings.dir.absolute(), "tracking_uri": uri})
        from cluster.pool.actor import PoolActor

        connection = _connected(address)
        content = settings.model_dump(mode="json")
        variables = credentials.ours()
        # Only their masked form is in what Ray keeps of an actor.
        shown = {**content, "tracking_uri": masked(uri)}
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
            .remote(shown)
        )
        pool = cls(actor, connection)
        with ExitStack() as failed:
            failed.callback(pool.close)
            running_dir = pool.status()["dir"]
            if running_dir != content["dir"]:
                raise ValueError(
                    f"dir: the pool of this cluster is in {running_dir}: stop it first, or give that dir"
                )
            pool._ask("configure", content, variables, who())
            failed.pop_all()
        return pool

    def submit(self, task: Task, *, again: bool = False, token: str | None = None) -> str:
        """Queue a task; the job's id.

        Args:
            task: the task; its paths must be valid on the nodes that run jobs.
            again: reuse the name of a job that has ended.
            token: unique key of the submission, which may be repeated with it; a new one by default.

        Raises:
            ValueError, FileNotFoundError: naming the field, when the task cannot run or the pool refuses it.
        """
        from cluster.tasks.task import check_data

        checked = check_data(task)  # the pool checks its base: it has MLflow's client imported
        return self._ask(
            "submit", checked.model_dump(mode="json"), token or uuid.uuid4().hex, again, self._who
        )

    def asked_by(self, who: str) -> Pool:
        """The same pool on somebody's behalf, whom histories and the audit log name."""
        return Pool(self._actor, ExitStack(), who)

    def may_start_from(self, base: str, team: str) -> bool:
        """Whether a model, ``models:/…``, is there and is not another team's."""
        return self._ask("may_start_from", base, team)

    def uri(self) -> str:
        """URI of the MLflow store of the pool's jobs."""
        return self._ask("uri")

    def jobs(self, team: str | None = None) -> list[Job]:
        """All jobs, or a team's, in order of submission."""
        return self._ask("jobs", team)

    def find(self, name: str) -> str:
        """The id of the latest job called ``name``; see :func:`~cluster.pool.job.find_job`."""
        return find_job(self.jobs(), name)

    def job(self, job_id: str) -> JobDetails:
        """A job with its history and the last lines of its log."""
        return self._ask("job", job_id)

    def events(self, job_id: str, offset: int = 0) -> tuple[list[LoggedEvent], int]:
        """A job's events from a byte offset on, and the offset of the next ones."""
        return self._ask("events", job_id, offset)

    def cancel(self, job_id: str) -> str:
        """Cancel a job; its state, which stays ``running`` until the job has committed its step.

        One that has been trained and waits for the registry is not registered any more.
        """
        return self._ask("cancel", job_id, self._who)

    def retry(self, job_id: str) -> str:
        """Queue a failed or cancelled job again; its state."""
        return self._ask("retry", job_id, self._who)

    def add_key(self, team: str, role: Role = "member", expires: float | None = None) -> tuple[Key, str]:
        """Make a key for the pool's door: what the pool knows of it, and the key itself, which it does not.

        Args:
            expires: when it ends, in seconds since the epoch.
        """
        text = new_key()
        key = Key(
            id=f"key-{secrets.token_hex(6)}", team=team, role=role, created=time.time(), expires=expires
        )
        self._ask("add_key", key, hashed(text), self._who)
        return key, text

    def keys(self) -> list[Key]:
        """All keys, revoked and expired ones included."""
        return self._ask("keys")

    def key(self, text: str) -> Key | None:
        """What the pool knows of a key; ``None`` for one that lets nobody in."""
        return self._ask("key", hashed(text))

    def revoke_key(self, key_id: str) -> Key:
        """Make a key invalid.

        Raises:
            ValueError: when there is none of that id.
        """
        return self._ask("revoke_key", key_id, self._who)

    def note(self, action: str, subject: str) -> None:
        """Append something that the pool itself does not see to the audit log."""
        self._ask("note", self._who, action, subject)

    def audit(self) -> list[AuditEntry]:
        """The audit log, oldest first."""
        return self._ask("audit")

    def status(self) -> PoolStatus:
        """The pool's slots and teams."""
        return self._ask("status")

    def transitions(self) -> list[Transition]:
        """All changes of state of all jobs, oldest first."""
        return self._ask("transitions")

    def wait(self, *ids: str, poll_seconds: float = 0.3) -> list[Job]:
        """Wait until the jobs with these ids have ended; the jobs."""
        while True:
            jobs = {job.id: job for job in self.jobs()}
            chosen = [jobs[job_id] for job_id in ids]
            if all(job.state in ENDED for job in chosen):
                return chosen
            time.sleep(poll_seconds)

    def drain(self) -> None:
        """Start no more jobs and accept none; running jobs go on."""
        self._ask("drain", self._who)

    def stop(self) -> None:
        """Stop the pool: running jobs commit their step and are queued again; the journal stays."""
        import ray

        while self._ask("stop"):
            time.sleep(0.3)
        ray.kill(self._actor, no_restart=True)

    def close(self) -> None:
        """Close the connection to Ray if this handle opened it."""
        self._connection.close()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
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
    """Open a connection to Ray, unless there is one already.

    Raises:
        ValueError: for a dashboard's address.
        ConnectionError: when there is no cluster.
    """
    connection = ExitStack()
    if address is not None and address.startswith(("http://", "https://")):
        raise ValueError(
            f"address {address!r} is a dashboard's: reach the pool at host:6379, or from outside the cluster "
            "at ray://host:10001"
        )
    ray = sys.modules.get("ray")  # importing ray takes longer than seeing that no cluster answers
    if ray is None or not ray.is_initialized():
        connection.enter_context(ray_cluster(address or "auto"))
    return connection
