"""A hyperparameter search whose trials are ordinary jobs of the pool.

The search keeps no state of its own, so it can be killed at any time: when it is run again, it finds its jobs
in the pool, replays them to Optuna in the order in which they were started, and goes on.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from cluster.finetuning import job as finetuning
from cluster.finetuning.search import SearchedTask, with_values
from cluster.pool.job import ENDED, Job
from cluster.pool.study import Study
from cluster.runs.events import Event, LoggedEvent
from cluster.runs.failures import QueueFullError, RunFailedError
from cluster.tags import BEST_TRIAL, SEARCH_SPACE
from cluster.tasks.task import Task
from cluster.tracking import runs

if TYPE_CHECKING:
    import optuna

LOOK_SECONDS = 0.3
DRAWS = 50
"""Number of draws in a row that are invalid or known before the space counts as exhausted."""
IGNORED = {"name", "trial", "parent_run", "priority", "deadline", "gate"}
"""Settings in which a trial may differ from the searched task."""


class JobQueue(Protocol):
    """The methods of :class:`~cluster.pool.Pool` that a search uses."""

    def uri(self) -> str: ...
    def submit(self, task: Task, *, again: bool = False) -> str: ...
    def jobs(self) -> Sequence[Job]: ...
    def events(self, job_id: str, offset: int = 0) -> tuple[list[LoggedEvent], int]: ...
    def cancel(self, job_id: str) -> str: ...


@dataclass
class Trial:
    """A set of values, and the results of the job that tries them."""

    number: int
    job: str
    """Id of the job in the pool."""
    values: dict[str, Any]
    state: str
    """State of the job; a pruned trial is ``cancelled``."""
    validations: dict[int, float] = field(default_factory=dict)
    """The task's metric by optimizer step, as far as it is known."""
    result: float | None = None
    """The task's metric at the end."""
    offset: int = 0
    """Byte offset up to which the job's events have been read."""


class TaskSearch:
    """The search of a task's settings on a pool.

    Args:
        pool: the pool that runs the trials.
        task: the task; its paths must be valid on the nodes that run jobs.

    Raises:
        ValueError, FileNotFoundError: naming the field, when the task cannot run.
    """

    def __init__(self, pool: JobQueue, task: SearchedTask) -> None:
        self._pool, self._uri = pool, pool.uri()
        self._search, self._task = task.search, finetuning.check(task.plain(), self._uri)
        self._study = Study(self._search, maximize=self._task.score != "loss")
        self._drawn: dict[str, optuna.Trial] = {}
        self._next: optuna.Trial | None = None
        self._is_exhausted = False
        self.trials: dict[str, Trial] = {}
        """Trials by their jobs' ids, in the order in which they were started."""

        self._parent = self._parent_run()
        for job in self._unfinished_of_its_name():
            if job.task.get("parent_run") != self._parent:
                raise ValueError(
                    f"name: the search's best trial becomes {self._task.name}, but job {job.id} of that name "
                    f"is {job.state}: wait for it, cancel it, or choose another name"
                )

    def run(self, on_look: Callable[[TaskSearch], object] = lambda search: None) -> None:
        """Run trials until the requested number has ended, or no new values are left.

        Args:
            on_look: called repeatedly, to show progress.
        """
        while True:
            jobs = self._pool.jobs()
            for job in jobs:
                if job.id in self.trials or self._is_mine(job):
                    self._follow(job)
            on_look(self)

            running = sum(trial.state not in ENDED for trial in self.trials.values())
            is_full = self._is_exhausted or len(self.trials) >= self._search.trials
            if is_full and not running:
                return
            if is_full or running >= self._search.at_once or not self._begin(jobs):
                time.sleep(LOOK_SECONDS)

    @property
    def keys(self) -> list[str]:
        """The settings that are searched, such as ``train.learning_rate``."""
        return list(self._search.space)

    @property
    def metric(self) -> str:
        """The metric that trials are ranked by."""
        return self._task.score

    @property
    def best(self) -> Trial | None:
        """The trial with the best result so far; ``None`` if none has finished."""
        finished = [trial for trial in self.trials.values() if trial.result is not None]
        sign = 1 if self.metric == "loss" else -1
        return min(finished, key=lambda trial: sign * float(trial.result or 0), default=None)

    def submit_best(self) -> str:
        """Submit the task with the best trial's values; the job's id. An equal job is not submitted twice.

        Raises:
            RunFailedError: when no trial has finished.
        """
        best = self.best
        if best is None:
            self._fail()
        task = with_values(self._task, best.values).model_copy(update={"parent_run": self._parent})
        runs.end_run(
            self._uri,
            self._parent,
            {f"best_{self.metric}": float(best.result or 0), "trials": float(len(self.trials))},
            {BEST_TRIAL: json.dumps({"job": best.job, **best.values})},
        )

        also = ("name", "trial", "gate")
        wanted = _compared(task.model_dump(mode="json"), *also)
        for job in reversed(self._pool.jobs()):
            if job.state not in ("failed", "cancelled") and _compared(job.task, *also) == wanted:
                return job.id
        while self._unfinished_of_its_name():  # with values that were the best until now
            time.sleep(LOOK_SECONDS)
        return self._pool.submit(task, again=True)

    def _fail(self) -> NoReturn:
        runs.end_run(self._uri, self._parent, {}, {}, "FAILED")
        errors = [job.error for job in self._pool.jobs() if job.id in self.trials and job.error]
        why = f": {errors[-1]}" if errors else ""
        raise RunFailedError(
            f"no trial of {self._task.team}/{self._task.name} finished with a finite {self.metric}{why}"
        )

    def _unfinished_of_its_name(self) -> list[Job]:
        name = (self._task.team, self._task.name)
        return [job for job in self._pool.jobs() if (job.team, job.name) == name and job.state not in ENDED]

    def _is_mine(self, job: Job) -> bool:
        values = job.task.get("trial")
        if values is None or job.team != self._task.team or not _number(job.name, self._task.name):
            return False
        if not self._search.holds(values):
            return False
        return _compared(job.task) == _compared(self._trial_task(1, values).model_dump(mode="json"))

    def _follow(self, job: Job) -> None:
        """Read a trial's new events; prune it if it is worse than the others."""
        trial = self.trials.get(job.id) or self._replay(job)
        if trial.state in ENDED:
            return
        self._read_validations(trial, job)
        trial.state = job.state
        drawn = self._drawn[trial.job]
        if trial.state in ENDED:
            if job.state == "succeeded" and job.result and math.isfinite(job.result["after"]):
                trial.result = job.result["after"]
            self._study.finish(drawn, trial.result, pruned=trial.state == "cancelled")
        elif not job.ending and drawn.should_prune():
            self._pool.cancel(trial.job)

    def _read_validations(self, trial: Trial, job: Job) -> None:
        steps, metric = job.task["train"]["steps"], f"validation_{self.metric}"
        while True:
            events, end = self._pool.events(trial.job, trial.offset)
            for event in events:
                if event["event"] != Event.VALIDATION:
                    continue
                # A job that resumed from its last checkpoint validates some steps twice.
                step, value = event["step"], event[metric]
                is_first = not math.isfinite(trial.validations.get(step, math.nan))
                trial.validations[step] = value
                if is_first and math.isfinite(value) and 0 < step < steps:
                    self._drawn[trial.job].report(value, step)
            if end == trial.offset:
                return
            trial.offset = end

    def _replay(self, job: Job) -> Trial:
        """A trial that an earlier run of the search started."""
        values = job.task["trial"]
        return self._add(self._study.replay(values), values, job.id, job.name)

    def _begin(self, jobs: Sequence[Job]) -> bool:
        """Submit a trial of new values; ``False`` if there are none, or the team's queue is full."""
        self._next = self._next or self._draw()
        if self._next is None:
            self._is_exhausted = True
            return False
        values = self._study.values(self._next)
        team_names = [job.name for job in jobs if job.team == self._task.team]
        number = 1 + max((_number(name, self._task.name) for name in team_names), default=0)
        task = self._trial_task(number, values)
        try:
            job = self._pool.submit(task)
        except QueueFullError:
            return False
        self._add(self._next, values, job, task.name)
        self._next = None
        return True

    def _draw(self) -> optuna.Trial | None:
        """Draw valid values that no trial has had; ``None`` when there seem to be none.

        Raises:
            ValueError: why the task cannot have the values, when no trial has had any.
        """
        tried = [trial.values for trial in self.trials.values()]
        refused: ValueError | None = None
        for attempt in range(DRAWS):
            drawn = self._study.draw(len(self.trials), attempt)
            values = self._study.values(drawn)
            try:
                self._trial_task(1, values)
            except ValueError as error:
                refused = error
            else:
                if values not in tried:
                    return drawn
            self._study.finish(drawn, None)
        if refused and not tried:
            raise refused
        return None

    def _add(self, drawn: optuna.Trial, values: dict[str, Any], job: str, name: str) -> Trial:
        self._drawn[job] = drawn
        self.trials[job] = Trial(_number(name, self._task.name), job, values, "queued")
        return self.trials[job]

    def _trial_task(self, number: int, values: dict[str, Any]) -> Task:
        task = with_values(self._task, values)
        every = max(1, math.ceil(task.train.steps / self._search.validations))
        return task.model_copy(
            update={
                "name": f"{self._task.name}-trial-{number}",
                "train": task.train.model_copy(update={"validate_every": every}),
                "gate": None,
                "trial": values,
                "parent_run": self._parent,
            }
        )

    def _parent_run(self) -> str:
        task, space = self._task, self._search.model_dump(mode="json")["space"]
        settings = _compared(task.model_dump(mode="json"))
        key = hashlib.sha256(json.dumps([task.name, settings]).encode()).hexdigest()
        name = f"{task.team}/{task.name} search"
        tags = {SEARCH_SPACE: json.dumps(space)}
        return runs.parent_run(self._uri, f"finetune-{task.team}", name, settings, key, tags)


def _compared(task: dict[str, Any], *also: str) -> dict[str, Any]:
    """The settings by which tasks are compared: all that are not ignored, and ``also``."""
    return {key: value for key, value in task.items() if key not in IGNORED or key in also}


def _number(name: str, task: str) -> int:
    """The trial number in a job's name; 0 if it is no trial of the task."""
    before, _, number = name.rpartition("-trial-")
    return int(number) if before == task and number.isdecimal() else 0
