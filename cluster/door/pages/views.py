"""What the page shows of a job, from what its caller may see."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cluster.door.jobs import file_id
from cluster.door.pages.drawing import sparkline
from cluster.door.pages.progress import Progress, ProgressLogs, Validation
from cluster.pool.job import ENDED, Job
from cluster.tags import DATA_DIGEST
from cluster.tracking import runs

MOST_SCORES = 12
"""Number of validations that are shown."""


@dataclass(frozen=True)
class Row:
    """A job and how far it is."""

    job: Job
    progress: Progress
    spark: str
    """The losses as points of a small line."""
    remaining: float | None
    """Seconds until the last step, if it trains and its speed is known."""


def row(job: Job, logs: ProgressLogs) -> Row:
    """A job with what its log says by now."""
    progress = logs.read(job.folder)
    end = progress.end(job.task["train"]["steps"]) if job.state == "running" else None
    remaining = None if end is None else max(0.0, end - time.time())
    return Row(job, progress, sparkline(progress.losses), remaining)


class Files(NamedTuple):
    """The names of a job's files, with their ids if they are at the door."""

    train: str
    validation: str | None


def files(job: Job) -> Files:
    """The files that a job was given."""

    def named(path: str) -> str:
        name, given = Path(path).name, file_id(path)
        return name if given == name else f"{name} ({given})"

    data = job.task["data"]
    return Files(named(data["train"]), data["validation"] and named(data["validation"]))


def digest(job: Job) -> str | None:
    """SHA-256 of a job's examples, once it has begun."""
    try:
        return runs.run_tags(Path(job.folder)).get(DATA_DIGEST)
    except (OSError, ValueError):
        return None


class Model(NamedTuple):
    """A registered version that a job has made."""

    name: str
    version: str


def model(job: Job) -> Model | None:
    """The version that a job has registered, if it has."""
    result = job.result or {}
    is_there = job.state == "succeeded" and result.get("adapter_version") is not None
    return Model(result["adapter_model"], result["adapter_version"]) if is_there else None


class Scores(NamedTuple):
    """The last validations of a job, and the metrics that they have."""

    metrics: list[str]
    rows: Sequence[Validation]


def scores(progress: Progress) -> Scores:
    """The first validation and the last ones."""
    seen = progress.validations
    rows = seen if len(seen) <= MOST_SCORES else (seen[0], *seen[1 - MOST_SCORES :])
    return Scores(list(dict.fromkeys(metric for one in rows for metric in one.metrics)), rows)


def settings(job: Job) -> Iterator[tuple[str, str]]:
    """The settings of a job that somebody who compares jobs looks for."""
    task, train = job.task, job.task["train"]
    yield "depth", _depth(job)
    yield "steps", f"{train['steps']:,} of {train['global_batch']} examples"
    yield "learning rate", f"{train['learning_rate']:g}"
    if task["method"] == "lora":
        yield "rank", str(task["adapter"]["rank"])
    yield "seed", str(train["seed"])
    if job.priority:
        yield "priority", str(job.priority)
    if task["deadline"]:
        yield "deadline", task["deadline"]


def _depth(job: Job) -> str:
    task = job.task
    if task["latency_ms"] is not None:
        return f"{task['latency_ms']:g} ms per token"
    return "N = D, the base's" if task["depth"] is None else f"N = {task['depth']}"


class Action(NamedTuple):
    """What may be done to a job."""

    name: str
    title: str
    words: str
    button: str


CANCEL = Action(
    "cancel",
    "Cancel this job",
    "It stops after its current step; resume goes on from there.",
    "Cancel the job",
)
RESUME = Action(
    "resume", "Resume this job", "It is queued again, and goes on from its last checkpoint.", "Resume the job"
)


def action(job: Job) -> Action | None:
    """What may be done to a job in its state."""
    if job.state in ("failed", "cancelled"):
        return RESUME
    return None if job.state in ENDED or job.ending else CANCEL
