"""Submitting, watching and tuning jobs of the fine-tune pool, with progress in the terminal."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from cluster.door.client import RemotePool
from cluster.finetuning.result import FinetuneResult
from cluster.finetuning.search import SearchedTask
from cluster.pool import Pool, PoolSettings
from cluster.pool.job import ENDED, Job
from cluster.pool.search import TaskSearch
from cluster.registry.run_output import REGISTER_SECONDS
from cluster.runs.events import Event, LoggedEvent, words_of
from cluster.runs.failures import RunFailedError
from cluster.runs.pace import Pace
from cluster.tasks.task import Task
from launcher.tables.search import state_in_words
from launcher.terminal.durations import in_words
from launcher.terminal.progress import Progress

POLL_SECONDS = 0.3


def run_tasks(
    tasks: Sequence[Task], folder: Path, uri: str | None, progress: Progress
) -> list[FinetuneResult]:
    """Run tasks on a pool of a private cluster, show their progress, and return their results in order.

    An interrupted job in ``folder`` is resumed; one that ended is run again. At SIGTERM the jobs commit the
    step in progress.

    Raises:
        RunFailedError: With the error of a job that failed.
    """
    with progress.stage(f"fine-tuning {', '.join(f'{task.team}/{task.name}' for task in tasks)}"):
        pool = Pool.start(PoolSettings(dir=folder, tracking_uri=uri))
        ids = [_submit(pool, task) for task in tasks]
        try:
            jobs = _wait(pool, ids, progress, REGISTER_SECONDS)
        except KeyboardInterrupt:
            for job_id in ids:
                pool.cancel(job_id)
            raise
        except SystemExit:  # SIGTERM
            with suppress(ConnectionError):  # its processes were told to end as well
                pool.stop()
            raise
    for job in jobs:
        if job.state not in ("succeeded", "trained"):
            raise RunFailedError(f"job {job.id} {job.state}: {job.error or job.reason}")
    return [FinetuneResult(**job.result) for job in jobs if job.result is not None]


def _submit(pool: Pool, task: Task) -> str:
    """Submit a task, unless an interrupted command has left a job that can be resumed; the job's id."""
    from cluster.finetuning.job import check

    checked = check(task, pool.uri()).model_dump(mode="json")
    for job in pool.jobs():
        if (job.team, job.name) == (task.team, task.name) and job.state not in ENDED:
            if job.task == checked:
                return job.id
            pool.cancel(job.id)
            pool.wait(job.id)
    return pool.submit(task, again=True)


def watch(pool: Pool | RemotePool, ids: Sequence[str], progress: Progress) -> list[Job]:
    """Show the progress of jobs until all have ended, and return them."""
    with progress.stage(", ".join(ids)):
        return _wait(pool, ids, progress)


def run_search(pool: Pool, task: SearchedTask, progress: Progress) -> tuple[TaskSearch, Job]:
    """Tune a task's settings, then run it with the best; the search and that job, once it has ended."""
    search = TaskSearch(pool, task)

    def on_look(search: TaskSearch) -> None:
        states = Counter(state_in_words(trial) for trial in search.trials.values())
        detail = ", ".join(f"{count} {state}" for state, count in states.items())
        if (best := search.best) is not None:
            detail += f" · best {task.score} {best.result:.3f} by trial {best.number}"
        ended = sum(trial.state in ENDED for trial in search.trials.values())
        progress.update(ended / max(task.search.trials, len(search.trials)), detail)

    with progress.stage(f"{task.team}/{task.name}: {task.search.trials} trials"):
        search.run(on_look)
    [job] = watch(pool, [search.submit_best()], progress)
    return search, job


def lines(pool: Pool | RemotePool, job_id: str, follow: bool) -> Iterator[str]:
    """A line for each event of a job; with ``follow`` until the job has ended."""
    offset = 0
    while True:
        ended = pool.job(job_id).state in ENDED
        while True:
            events, end = pool.events(job_id, offset)
            yield from map(_line_of, events)
            if end == offset:
                break
            offset = end
        if ended or not follow:
            return
        time.sleep(POLL_SECONDS)


def _line_of(event: LoggedEvent) -> str:
    at = time.strftime("%H:%M:%S", time.localtime(event["time"]))
    return f"{at} {words_of(event)}"


def _wait(
    pool: Pool | RemotePool, ids: Sequence[str], progress: Progress, registry_seconds: float = math.inf
) -> list[Job]:
    last_steps: dict[str, LoggedEvent] = {}
    paces = {job_id: Pace() for job_id in ids}
    offsets = dict.fromkeys(ids, 0)
    while True:
        jobs = {job.id: job for job in pool.jobs() if job.id in offsets}
        for job_id in ids:
            events, offsets[job_id] = pool.events(job_id, offsets[job_id])
            last_steps.update((job_id, event) for event in events if event["event"] == Event.STEP)
            for event in events:
                paces[job_id].add(event)

        done = sum(
            event["step"] / jobs[job_id].task["train"]["steps"] for job_id, event in last_steps.items()
        )
        states = [_short(jobs[i], last_steps.get(i), paces[i]) for i in ids]
        progress.update(done / len(jobs), " · ".join(states))
        if all(_is_over(job, registry_seconds) for job in jobs.values()):
            return [jobs[job_id] for job_id in ids]
        time.sleep(POLL_SECONDS)


def _is_over(job: Job, registry_seconds: float) -> bool:
    """Whether a job has ended, or is trained and has waited ``registry_seconds`` for the registry."""
    gave_up = job.state == "trained" and time.time() - job.changed > registry_seconds
    return gave_up or job.state in ENDED


def _short(job: Job, event: LoggedEvent | None, pace: Pace) -> str:
    if job.state == "running" and event is not None:
        left = in_words(pace.left(job.task["train"]["steps"]))
        return f"{job.team} step {event['step']} loss {event['loss']:.2f} {left}".rstrip()
    return f"{job.team} {job.state}"
