"""Jobs of the pool in OpenAI's form, with all that the pool knows of one in the field ``odeformer``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

from openai.types.fine_tuning import FineTuningJob
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

from cluster.door.events import PlacedEvent, events_after
from cluster.door.files import FILE_ID
from cluster.door.form import EXTENSION, public_id
from cluster.pool.job import ENDED, HistoryEntry, Job, JobDetails
from cluster.runs.events import Event, LoggedEvent
from cluster.tasks.task import TaskTrain

_NAME = "[A-Za-z0-9][A-Za-z0-9_-]{0,62}"
_ID = re.compile(rf"({_NAME})\.({_NAME})\.([0-9]{{1,9}})")
_TOGETHER = "together with "
_OF_OTHERS = "another team's"
AnyJob = TypeVar("AnyJob", bound=Job)


def pool_id(given: str) -> tuple[str, str] | None:
    """The team and the pool's id of a job; ``None`` for what is no job's id."""
    found = _ID.fullmatch(given)
    return (found[1], "/".join(found.groups())) if found else None


def job_object(job: Job, of: str | None) -> FineTuningJob:
    """A job in OpenAI's form.

    Args:
        of: the team that it is shown to, which learns nothing of others that share its process; ``None`` for
            an admin.
    """
    shown = seen_by(job, of)
    task, result = shown.task, shown.result or {}
    train, data = task["train"], task["data"]
    error = {"code": "job_failed", "message": shown.error or shown.reason or "", "param": None}
    return FineTuningJob.model_validate(
        {
            "id": public_id(job.id),
            "created_at": int(job.submitted),
            "error": error if job.state == "failed" else None,
            "fine_tuned_model": result.get("adapter_model") if job.state == "succeeded" else None,
            "finished_at": int(job.changed) if job.state in ENDED else None,
            "hyperparameters": {
                "batch_size": train["global_batch"],
                "learning_rate_multiplier": train["learning_rate"] / TaskTrain().learning_rate,
            },
            "model": job.base,
            "object": "fine_tuning.job",
            "organization_id": job.team,
            "result_files": [],
            "seed": train["seed"],
            "status": "running" if job.state == "trained" else job.state,
            "training_file": file_id(data["train"]),
            "validation_file": data["validation"] and file_id(data["validation"]),
            "metadata": task.get("metadata") or {},
            "method": {"type": "dpo" if task["kind"] == "preference" else "supervised"},
            EXTENSION: asdict(shown),
        }
    )


def checkpoints(job: Job) -> list[FineTuningJobCheckpoint]:
    """The commits of a job in OpenAI's form, newest first; only the last one is in the registry."""
    found: list[FineTuningJobCheckpoint] = []
    metrics: LoggedEvent = {}
    for end, event in _all_events(Path(job.folder)):
        if event["event"] == Event.STEP:
            metrics["train_loss"] = event.get("loss")
        elif event["event"] == Event.VALIDATION:
            metrics |= {key: value for key, value in event.items() if key.startswith("validation_")}
        elif event["event"] == Event.CHECKPOINT:
            step, result = event["step"], job.result or {}
            is_last = job.state == "succeeded" and step == job.task["train"]["steps"]
            made = FineTuningJobCheckpoint.model_validate(
                {
                    "id": f"ftckpt-{end}",
                    "created_at": int(event["time"]),
                    "fine_tuned_model_checkpoint": result.get("adapter_model")
                    if is_last
                    else f"{public_id(job.id)}@{step}",
                    "fine_tuning_job_id": public_id(job.id),
                    "metrics": {"step": step, "full_valid_loss": metrics.get("validation_loss"), **metrics},
                    "object": "fine_tuning.job.checkpoint",
                    "step_number": step,
                }
            )
            found.append(made)
    return found[::-1]


def _all_events(folder: Path) -> Iterator[PlacedEvent]:
    offset = 0
    while placed := events_after(folder, offset):
        yield from placed
        offset = placed[-1].end


def file_id(path: str) -> str:
    """The id of a file of the door; the name of one that was submitted on the cluster."""
    folder = Path(path).parent.name
    return folder if FILE_ID.fullmatch(folder) else Path(path).name


def seen_by(job: AnyJob, team: str | None) -> AnyJob:
    """A job without what it tells of other teams' jobs that shared its process; ``None`` is an admin."""
    if team is None:
        return job
    together = [other if other.startswith(f"{team}/") else _OF_OTHERS for other in job.together_with]
    job = replace(job, together_with=together)
    if not isinstance(job, JobDetails):
        return job
    history, has_shared = [], False
    for entry in job.history:
        reason = entry.reason or ""
        others = reason.removeprefix(_TOGETHER).split(", ") if reason.startswith(_TOGETHER) else []
        if not all(other.startswith(f"{team}/") for other in others):
            has_shared, entry = True, HistoryEntry(entry.time, entry.state, f"{_TOGETHER}others")
        history.append(entry)
    # The process that they shared printed into one log.
    return replace(job, history=history, last_lines=[] if has_shared else job.last_lines)
