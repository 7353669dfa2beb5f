"""MLflow's part of a job, done by the pool: registering later what was not registered, and how jobs stand.

All of it may be done again: an adapter is registered by its digest, and a tag is what it was set to last.
"""

from __future__ import annotations

from pathlib import Path

from cluster.finetuning import job as finetuning
from cluster.pool.journal import Job
from cluster.tracking import runs, upload

JOB, STATE, REASON = "odeformer.job", "odeformer.job_state", "odeformer.job_reason"
"""Tags of a job's MLflow run: its id in the pool, its state there, and why."""
STATUS = {
    "queued": "SCHEDULED",
    "running": "RUNNING",
    "trained": "FINISHED",
    "succeeded": "FINISHED",
    "failed": "FAILED",
    "cancelled": "KILLED",
}
"""The status of the MLflow run, which a job that was killed did not set itself."""


def mirror(job: Job, folder: Path) -> None:
    """Have MLflow know the state of a job; one that has never begun has no run there.

    Raises:
        ConnectionError: when the store cannot be reached.
    """
    if not (folder / runs.RUN_FILE).is_file():
        return
    if job.state != "running":
        upload.sync(folder, seconds=0)  # what a process that was killed has not sent
    tags = {JOB: job.id, STATE: job.state, REASON: job.reason or job.error or ""}
    runs.tag_run(folder, tags, STATUS[job.state])


def register(job: Job, folder: Path) -> dict[str, object]:
    """Register the adapter of a trained job; its result, with the version.

    Raises:
        ConnectionError: when the store cannot be reached.
    """
    version = finetuning.register_run(folder)
    return {**(job.result or {}), "adapter_version": version.version}
