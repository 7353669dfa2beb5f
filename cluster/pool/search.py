"""A search on the pool: its trials are jobs as any others, and what the pool knows of them is its memory.

Whoever runs it may be killed at any time: run again, it finds its jobs in the pool, tells Optuna of them in
the order in which they were begun, and goes on.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from cluster.finetuning import job as finetuning
from cluster.finetuning.search import Range, Search, SearchedTask, with_values
from cluster.pool.states import ENDED
from cluster.runs.events import Event
from cluster.runs.failures import QueueFullError, RunFailedError
from cluster.tasks.task import Task
from cluster.tracking import runs

if TYPE_CHECKING:
    import optuna

LOOK_SECONDS = 0.3
DRAWS = 50
"""Of values that a task cannot have together, or that a trial has had: after so many in a row there are no
others."""
OF_NO_CONCERN = {"name", "trial", "parent_run", "priority", "deadline", "gate"}
"""In which a trial may differ from its task as it is now, and still be one of its search."""


class JobQueue(Protocol):
    """What a search needs of a :class:`~cluster.pool.Pool`."""

    def uri(self) -> str: ...
    def submit(self, task: Task, *, again: bool = False) -> str: ...
    def jobs(self) -> list[dict[str, Any]]: ...
    def events(self, job_id: str, offset: int = 0) -> tuple[list[dict[str, Any]], int]: ...
    def cancel(self, job_id: str) -> str: ...


@dataclass
class Trial:
    """One set of values, and what has come of it."""

    number: int
    job: str
    """Its id in the pool."""
    values: dict[str, Any]
    state: str
    """That of its job; one that was stopped is ``cancelled``."""
    validations: dict[int, float] = field(default_factory=dict)
    """The task's metric by optimizer step, as far as it is known."""
    result: float | None = None
    """The task's metric at the end."""
    offset: int = 0
    """How far its events have been read."""


class TaskSearch:
    """The search of a task on a pool.

    Args:
        pool: that runs it.
        task: paths in it must mean the same on the nodes that run jobs.

    Raises:
        ValueError, FileNotFoundError: naming the field, when the task cannot run.
    """

    def __init__(self, pool: JobQueue, task: SearchedTask) -> None:
        self._pool, self._uri = pool, pool.uri()
        self._search, self._task = task.search, finetuning.check(task.plain(), self._uri)
        self._study = _study(self._task)
        self._distributions = {key: _distribution(among) for key, among in self._search.space.items()}
        self._asked: dict[str, optuna.Trial] = {}
        self._drawn: optuna.Trial | None = None
        self._is_exhausted = False
        self.trials: dict[str, Trial] = {}
        """By their jobs' ids, in the order in which they were begun."""
        self._parent = self._parent_run()
        for job in self._unfinished_of_its_name():
            if job["task"].get("parent_run") != self._parent:
                raise ValueError(
                    f"name: the best of the search is to be called {self._task.name}, and job {job['id']} of "
                    f"that name is {job['state']}: wait for it, cancel it, or choose another name"
                )

    def run(self, on_look: Callable[[TaskSearch], object] = lambda search: None) -> None:
        """Run trials until there are as many as asked for, or no other values, and all have ended.

        Args:
            on_look: called again and again.
        """
        while True:
            jobs = self._pool.jobs()
            for job in jobs:
                if job["id"] in self.trials or self._is_mine(job):
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
        """What is searched."""
        return list(self._search.space)

    @property
    def metric(self) -> str:
        """By what."""
        return self._task.score

    @property
    def best(self) -> Trial | None:
        """The trial with the best result so far, if any has got to its end."""
        ended = [trial for trial in self.trials.values() if trial.result is not None]
        sign = 1 if self._task.score == "loss" else -1
        return min(ended, key=lambda trial: sign * float(trial.result or 0), default=None)

    def submit_best(self) -> str:
        """Submit the task itself with the best trial's values; the job's id, that of the one there may be.

        Raises:
            RunFailedError: when no trial has got to its end.
        """
        best = self.best
        if best is None:
            runs.end_run(self._uri, self._parent, {}, {}, "FAILED")
            errors = [job["error"] for job in self._pool.jobs() if job["id"] in self.trials and job["error"]]
            why = f": {errors[-1]}" if errors else ""
            raise RunFailedError(
                f"no trial of {self._task.team}/{self._task.name} has got to its end with a number{why}"
            )
        task = with_values(self._task, best.values).model_copy(update={"parent_run": self._parent})
        runs.end_run(
            self._uri,
            self._parent,
            {f"best_{task.score}": float(best.result or 0), "trials": float(len(self.trials))},
            {"odeformer.best_trial": json.dumps({"job": best.job, **best.values})},
        )
        own = ("name", "trial", "gate")
        wanted = _compared(task.model_dump(mode="json"), *own)
        same = [
            job["id"]
            for job in self._pool.jobs()
            if _compared(job["task"], *own) == wanted and job["state"] not in ("failed", "cancelled")
        ]
        if same:
            return str(same[-1])
        while self._unfinished_of_its_name():  # with values that were the best until now
            time.sleep(LOOK_SECONDS)
        return self._pool.submit(task, again=True)

    def _unfinished_of_its_name(self) -> list[dict[str, Any]]:
        name = (self._task.team, self._task.name)
        return [
            job
            for job in self._pool.jobs()
            if (job["team"], job["name"]) == name and job["state"] not in ENDED
        ]

    def _is_mine(self, job: dict[str, Any]) -> bool:
        values = job["task"].get("trial")
        if values is None or job["team"] != self._task.team or not _number(job["name"], self._task.name):
            return False
        return self._search.holds(values) and _compared(job["task"]) == _compared(
            self._trial_task(1, values).model_dump(mode="json")
        )

    def _follow(self, job: dict[str, Any]) -> None:
        """Take in what is new of a trial; stop it if it is behind the others."""
        trial = self.trials.get(job["id"]) or self._known(job)
        if trial.state in ENDED:
            return
        asked, metric = self._asked[trial.job], f"validation_{self._task.score}"
        while True:
            events, end = self._pool.events(trial.job, trial.offset)
            for event in events:
                if event["event"] != Event.VALIDATION:
                    continue
                # A job that went on from its last checkpoint validates some steps twice.
                step, value = event["step"], event[metric]
                is_first = not math.isfinite(trial.validations.get(step, math.nan))
                trial.validations[step] = value
                if is_first and math.isfinite(value) and 0 < step < job["task"]["train"]["steps"]:
                    asked.report(value, step)
            if end == trial.offset:
                break
            trial.offset = end
        trial.state = job["state"]
        if trial.state in ENDED:
            self._tell(trial, job)
        elif not job["ending"] and asked.should_prune():
            self._pool.cancel(trial.job)

    def _tell(self, trial: Trial, job: dict[str, Any]) -> None:
        from optuna.trial import TrialState

        asked = self._asked[trial.job]
        if trial.state == "succeeded" and math.isfinite(job["result"]["after"]):
            trial.result = job["result"]["after"]
            self._study.tell(asked, trial.result)
        else:
            self._study.tell(
                asked, state=TrialState.PRUNED if trial.state == "cancelled" else TrialState.FAIL
            )

    def _known(self, job: dict[str, Any]) -> Trial:
        """A trial of before, which Optuna is told of as if it had drawn it now."""
        values = job["task"]["trial"]
        self._study.enqueue_trial({key: self._inner(key, value) for key, value in values.items()})
        return self._add(self._study.ask(self._distributions), values, job["id"], job["name"])

    def _begin(self, jobs: list[dict[str, Any]]) -> bool:
        """Submit a trial of new values; whether there are any, and the team's queue has room."""
        self._drawn = self._drawn or self._draw()
        if self._drawn is None:
            self._is_exhausted = True
            return False
        values = self._values(self._drawn)
        of_the_team = [job["name"] for job in jobs if job["team"] == self._task.team]
        number = 1 + max((_number(name, self._task.name) for name in of_the_team), default=0)
        task = self._trial_task(number, values)
        try:
            job = self._pool.submit(task)
        except QueueFullError:
            return False
        self._add(self._drawn, values, job, task.name)
        self._drawn = None
        return True

    def _draw(self) -> optuna.Trial | None:
        """Values that the task can have and no trial has had; None when there seem to be none.

        Raises:
            ValueError: why the task cannot have them, when no trial has had any.
        """
        from optuna.trial import TrialState

        tried = [trial.values for trial in self.trials.values()]
        refused: ValueError | None = None
        for attempt in range(DRAWS):
            self._study.sampler = _sampler(self._search, len(self.trials), attempt)
            asked = self._study.ask(self._distributions)
            values = self._values(asked)
            try:
                self._trial_task(1, values)
            except ValueError as error:
                refused = error
            else:
                if values not in tried:
                    return asked
            self._study.tell(asked, state=TrialState.FAIL)
        if refused and not tried:
            raise refused
        return None

    def _values(self, asked: optuna.Trial) -> dict[str, Any]:
        return {
            key: asked.params[key] if isinstance(among, Range) else json.loads(asked.params[key])
            for key, among in self._search.space.items()
        }

    def _add(self, asked: optuna.Trial, values: dict[str, Any], job: str, name: str) -> Trial:
        self._asked[job] = asked
        self.trials[job] = Trial(_number(name, self._task.name), job, values, "queued")
        return self.trials[job]

    def _trial_task(self, number: int, values: dict[str, Any]) -> Task:
        drawn = with_values(self._task, values)
        every = max(1, -(-drawn.train.steps // self._search.validations))
        return drawn.model_copy(
            update={
                "name": f"{self._task.name}-trial-{number}",
                "train": drawn.train.model_copy(update={"validate_every": every}),
                "gate": None,
                "trial": values,
                "parent_run": self._parent,
            }
        )

    def _inner(self, key: str, value: Any) -> Any:
        """A value as Optuna has it: of a list, whose values may be lists, its JSON."""
        return value if isinstance(self._search.space[key], Range) else json.dumps(value)

    def _parent_run(self) -> str:
        task, space = self._task, self._search.model_dump(mode="json")["space"]
        settings = _compared(task.model_dump(mode="json"))
        key = hashlib.sha256(json.dumps([task.name, settings]).encode()).hexdigest()
        name = f"{task.team}/{task.name} search"
        tags = {"odeformer.search_space": json.dumps(space)}
        return runs.parent_run(self._uri, f"finetune-{task.team}", name, settings, key, tags)


def _compared(task: dict[str, Any], *more: str) -> dict[str, Any]:
    return {key: value for key, value in task.items() if key not in OF_NO_CONCERN or key in more}


def _study(task: Task) -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        direction="minimize" if task.score == "loss" else "maximize", pruner=optuna.pruners.MedianPruner()
    )


def _sampler(search: Search, trial: int, attempt: int) -> optuna.samplers.BaseSampler:
    """One for each draw: what is drawn does not depend on how often the search was interrupted."""
    import numpy
    import optuna

    seed = numpy.random.SeedSequence([search.seed, trial, attempt]).generate_state(1)
    return optuna.samplers.TPESampler(
        n_startup_trials=search.trials // 3, constant_liar=True, seed=int(seed[0])
    )


def _distribution(among: Range | tuple[Any, ...]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(among, Range):
        return CategoricalDistribution([json.dumps(value) for value in among])
    if among.is_whole:
        return IntDistribution(int(among.low), int(among.high), log=among.log)
    return FloatDistribution(among.low, among.high, log=among.log)


def _number(name: str, task: str) -> int:
    """Which trial of a task a job of that name is; 0: none."""
    before, _, number = name.rpartition("-trial-")
    return int(number) if before == task and number.isdecimal() else 0
