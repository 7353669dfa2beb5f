"""The fine-tune pool: an actor that queues tasks and runs each as a job on ``finetune`` resources only."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster import finetune, tracking
from cluster.connect import FINETUNE, worker_environment
from cluster.failures import cause
from cluster.settings import Task

ACTOR_NAME = "odeformer-pool"


class Pool:
    """A handle on the cluster's pool. Ray must be connected.

    A job is a dictionary: ``id``, ``name``, ``team``, ``state`` (``queued``, ``running``, ``succeeded``,
    ``failed``), ``folder``, and at its end ``result`` (a ``FinetuneResult`` as a dictionary) or ``error``.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    @classmethod
    def connect(cls, folder: Path, uri: str | None = None, cpus_per_job: int = 1) -> Pool:
        """The pool of this driver's connection to Ray, started if there is none; it ends with the driver.

        Args:
            folder: where its jobs write, ``<folder>/<team>/<name>``.
            uri: the MLflow store.
            cpus_per_job: logical CPUs a job takes, beside one ``finetune`` resource.
        """
        import ray

        options = {"name": ACTOR_NAME, "get_if_exists": True, "num_cpus": 0}
        environment = {"env_vars": worker_environment(cpus_per_job)}
        actor = (
            ray.remote(PoolActor)
            .options(**options, runtime_env=environment)
            .remote(str(folder.absolute()), tracking.tracking_uri(uri), cpus_per_job)
        )
        return cls(actor)

    def submit(self, task: Task) -> str:
        """Queue a task; the job's id.

        Raises:
            ValueError, FileNotFoundError: when the task cannot run, before anything is queued.
        """
        import ray

        checked = finetune.check(task, ray.get(self._actor.uri.remote()))
        return str(ray.get(self._actor.submit.remote(checked.model_dump(mode="json"))))

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs, oldest first."""
        import ray

        return list(ray.get(self._actor.jobs.remote()))

    def wait(self, *ids: str, poll_seconds: float = 0.3) -> list[dict[str, Any]]:
        """The jobs with these ids, once all have ended."""
        while True:
            chosen = [job for job in self.jobs() if job["id"] in ids]
            if all(job["state"] in ("succeeded", "failed") for job in chosen):
                return chosen
            time.sleep(poll_seconds)


class PoolActor:
    """The pool itself, one per cluster. Use it through :class:`Pool`."""

    def __init__(self, folder: str, uri: str, cpus_per_job: int) -> None:
        self._folder, self._uri, self._cpus = Path(folder), uri, cpus_per_job
        self._jobs: dict[str, dict[str, Any]] = {}
        self._references: dict[str, Any] = {}

    def uri(self) -> str:
        """The MLflow store of the pool's jobs."""
        return self._uri

    def submit(self, task: dict[str, Any]) -> str:
        """Queue a checked task."""
        job_id = f"{task['team']}-{task['name']}-{len(self._jobs) + 1}"
        folder = self._folder / task["team"] / f"{task['name']}-{int(time.time() * 1000)}"
        self._jobs[job_id] = {
            "id": job_id,
            "name": task["name"],
            "team": task["team"],
            "state": "queued",
            "folder": str(folder),
            "result": None,
            "error": None,
        }
        import ray

        # A process that has trained is not used again: it holds a process group and the job's memory.
        job = ray.remote(max_calls=1, max_retries=0, num_cpus=self._cpus, resources={FINETUNE: 1})(run_job)
        self._references[job_id] = job.options(
            runtime_env={"env_vars": worker_environment(self._cpus)}
        ).remote(task, str(folder), self._uri)
        return job_id

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs as they stand now."""
        import ray

        for job_id, reference in list(self._references.items()):
            job = self._jobs[job_id]
            if ray.wait([reference], timeout=0)[0]:
                del self._references[job_id]
                try:
                    job.update(state="succeeded", result=ray.get(reference))
                except ray.exceptions.RayError as error:
                    job.update(state="failed", error=cause(error))
            elif Path(job["folder"]).exists():
                job["state"] = "running"
        return list(self._jobs.values())


def run_job(task: dict[str, Any], folder: str, uri: str) -> dict[str, Any]:
    """One job, in a process of its own."""
    Path(folder).mkdir(parents=True)
    return asdict(finetune.finetune(Task.model_validate(task), Path(folder), uri))
