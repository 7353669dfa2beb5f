"""Tasks on the pool as their user sees them: submitted, watched, and their results."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.events import EventReader
from cluster.failures import RunFailedError
from cluster.pool import Pool
from cluster.settings import Task
from launcher.progress import Progress


def run_tasks(
    tasks: Sequence[Task], folder: Path, uri: str | None, progress: Progress
) -> list[dict[str, Any]]:
    """Submit tasks to the cluster's pool, show how they get on, and return their results in order.

    Raises:
        RunFailedError: with the job's error, when one failed.
    """
    with progress.stage(f"fine-tuning {', '.join(f'{task.team}/{task.name}' for task in tasks)}"):
        pool = Pool.connect(folder, uri)
        ids = [pool.submit(task) for task in tasks]
        steps = {job_id: task.train.steps for job_id, task in zip(ids, tasks, strict=True)}
        readers: dict[str, EventReader] = {}
        last: dict[str, dict[str, Any]] = {}
        while True:
            jobs = {job["id"]: job for job in pool.jobs() if job["id"] in steps}
            for job_id, job in jobs.items():
                reader = readers.setdefault(job_id, EventReader(Path(job["folder"]), from_end=False))
                for event in reader.new():
                    if event["event"] == "step":
                        last[job_id] = event
            done = sum(last[job_id]["step"] / steps[job_id] for job_id in last)
            progress.update(
                done / len(jobs), " · ".join(_line(job, last.get(job["id"])) for job in jobs.values())
            )
            if all(job["state"] in ("succeeded", "failed") for job in jobs.values()):
                break
            time.sleep(0.3)
    for job in jobs.values():
        if job["state"] == "failed":
            raise RunFailedError(f"job {job['id']} failed: {job['error']}")
    return [jobs[job_id]["result"] for job_id in ids]


def _line(job: dict[str, Any], event: dict[str, Any] | None) -> str:
    if job["state"] == "running" and event is not None:
        return f"{job['team']} step {event['step']} loss {event['loss']:.2f}"
    return f"{job['team']} {job['state']}"
