"""Searches on a queue whose jobs do what the test says; those on a real pool are in test_pool.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from small_tasks import a_task, register_base

from cluster.finetuning.search import SearchedTask
from cluster.pool import search as searching
from cluster.pool.job import ENDED, Job
from cluster.pool.search import TaskSearch
from cluster.runs.failures import QueueFullError, RunFailedError
from cluster.tasks.task import Task

STEPS = 8
SPACE = {
    "train.learning_rate": {"low": 1e-4, "high": 1.0, "log": True},
    "adapter.rank": {"low": 1, "high": 8},
    "train.depths": [[], [2, 4]],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    register_base(folder)
    return folder


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "LOOK_SECONDS", 0.0)


def searched(folder: Path, name: str = "kind", **search: Any) -> SearchedTask:
    content = a_task(folder, "a", name, steps=STEPS).model_dump()
    return SearchedTask.model_validate(
        {**content, "search": {"space": SPACE, "trials": 12, "at_once": 2, **search}}
    )


class Queue:
    """Each look at the jobs lets those that run make two steps, with the accuracy that ``at`` says."""

    def __init__(self, uri: str, at: Callable[[dict[str, Any], int], float]) -> None:
        self._uri, self._at = uri, at
        self._jobs: dict[str, Job] = {}
        self._events: dict[str, list[dict[str, Any]]] = {}
        self.at_once = 0
        self.most = 1000
        """That may wait or run, of a team."""

    def uri(self) -> str:
        return self._uri

    def submit(self, task: Task, *, again: bool = False) -> str:
        if sum(job.state not in ENDED for job in self._jobs.values()) >= self.most:
            raise QueueFullError("team: a has jobs queued")
        number = sum((job.team, job.name) == (task.team, task.name) for job in self._jobs.values()) + 1
        if number > 1 and not again:
            raise ValueError(f"name: team {task.team} has a job {task.name!r} already")
        job = queued_job(task, number)
        self._jobs[job.id], self._events[job.id] = job, []
        return job.id

    def jobs(self) -> list[Job]:
        self._jobs = {job.id: self._moved(job) for job in self._jobs.values()}
        trials = [job for job in self._jobs.values() if job.task["trial"] is not None]
        self.at_once = max(self.at_once, sum(job.state not in ENDED for job in trials))
        return list(self._jobs.values())

    def _moved(self, job: Job) -> Job:
        events, values = self._events[job.id], job.task["trial"] or {}
        if job.state == "queued":
            return replace(job, state="running")
        if job.state != "running":
            return job
        step = 2 * len(events)
        value = self._at(values, step)
        if math.isnan(value):
            return replace(job, state="failed", error="FloatingPointError: no number")
        if job.ending:
            return replace(job, state="cancelled")
        events.append({"event": "validation", "step": step, "validation_accuracy": value})
        if step < STEPS:
            return job
        return replace(job, state="succeeded", result={"after": value, "adapter_version": None})

    def events(self, job_id: str, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        events = self._events[job_id]
        return events[offset:], len(events)

    def cancel(self, job_id: str) -> str:
        self._jobs[job_id] = replace(self._jobs[job_id], ending="cancelled")
        return "running"


def queued_job(task: Task, number: int) -> Job:
    return Job(
        id=f"{task.team}/{task.name}/{number}",
        team=task.team,
        name=task.name,
        number=number,
        base=task.base,
        priority=task.priority,
        deadline=None,
        task=task.model_dump(mode="json"),
        state="queued",
        submitted=0.0,
        changed=0.0,
        reason=None,
        ending=None,
        attempts=0,
        result=None,
        error=None,
        folder="",
        together_with=[],
        waits_for=None,
    )


def a_queue(folder: Path, at: Callable[[dict[str, Any], int], float]) -> Queue:
    return Queue(f"sqlite:///{folder}/mlflow.db", at)


def accuracy(values: dict[str, Any], step: int) -> float:
    """Best at a rate of 0.01, better with every step."""
    return step / STEPS * math.exp(-(math.log10(values.get("train.learning_rate", 0.01) / 0.01) ** 2))


def test_trials_are_drawn_compared_and_stopped_and_the_best_one_becomes_the_task(folder: Path) -> None:
    queue = a_queue(folder, accuracy)
    search = TaskSearch(queue, searched(folder, "compared"))
    search.run()
    trials = list(search.trials.values())
    assert [trial.number for trial in trials] == list(range(1, 13))
    assert queue.at_once == 2
    ended = [trial for trial in trials if trial.state == "succeeded"]
    stopped = [trial for trial in trials if trial.state == "cancelled"]
    assert len(ended) >= 5, "none is stopped before five have ended"
    assert stopped
    assert len(ended) + len(stopped) == 12
    for trial in stopped:
        last = max(trial.validations)
        before = [other.validations[last] for other in ended[:5]]
        assert last < STEPS
        assert trial.validations[last] < max(before)
    assert search.best is not None
    assert search.best.result == max(trial.result for trial in ended if trial.result is not None)
    assert abs(math.log10(search.best.values["train.learning_rate"] / 0.01)) < 1, "near the best rate"
    final = search.submit_best()
    [job] = [job for job in queue.jobs() if job.id == final]
    assert job.name == "compared"
    assert job.task["trial"] is None, "it is registered"
    assert job.task["train"]["learning_rate"] == search.best.values["train.learning_rate"]
    assert job.task["adapter"]["rank"] == search.best.values["adapter.rank"]
    assert job.task["train"]["depths"] == search.best.values["train.depths"]
    assert search.submit_best() == final, "once"


def test_a_search_that_was_killed_goes_on_with_the_trials_there_are(folder: Path) -> None:
    queue = a_queue(folder, accuracy)

    def die(search: TaskSearch) -> None:
        if len(search.trials) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TaskSearch(queue, searched(folder, "killed")).run(die)
    before = {job.id: job.task["trial"] for job in queue.jobs()}
    again = TaskSearch(queue, searched(folder, "killed"))
    again.run()
    assert len(again.trials) == len(queue.jobs()) == 12
    assert {job: again.trials[job].values for job in before} == before
    assert len({str(trial.values) for trial in again.trials.values()}) == 12, "none is drawn twice"
    further = TaskSearch(queue, searched(folder, "killed", trials=15))
    further.run()
    assert len({str(trial.values) for trial in further.trials.values()}) == 15, "nor by one that goes further"
    again = further
    done = TaskSearch(queue, searched(folder, "killed", trials=6))
    done.run()
    assert {t.job: t.result for t in done.trials.values()} == {t.job: t.result for t in again.trials.values()}
    assert len(queue.jobs()) == 15, "there was nothing left to do"
    other = searched(folder, "killed", space={"adapter.rank": [2, 4]}, trials=2)
    narrower = TaskSearch(queue, other)
    narrower.run()
    assert [trial.number for trial in narrower.trials.values()] == [16, 17], "another search's do not count"


def test_a_trial_that_fails_is_left_out_and_all_of_them_are_an_error(folder: Path) -> None:
    queue = a_queue(
        folder, lambda values, step: math.nan if values["adapter.rank"] > 4 else accuracy(values, step)
    )
    search = TaskSearch(queue, searched(folder, "fails"))
    search.run()
    failed = [trial for trial in search.trials.values() if trial.state == "failed"]
    assert failed
    assert all(trial.values["adapter.rank"] > 4 for trial in failed)
    assert search.best is not None
    assert search.best.values["adapter.rank"] <= 4
    hopeless = TaskSearch(a_queue(folder, lambda values, step: math.nan), searched(folder, "none", trials=2))
    hopeless.run()
    with pytest.raises(RunFailedError, match="finished with a finite accuracy: FloatingPointError"):
        hopeless.submit_best()


def test_a_job_whose_score_is_no_number_is_not_the_best(folder: Path) -> None:
    at_end = iter([math.inf, *[0.5] * 3])
    queue = a_queue(folder, lambda values, step: next(at_end) if step == STEPS else 0.1)
    search = TaskSearch(queue, searched(folder, "infinite", trials=4))
    search.run()
    assert [trial.result for trial in search.trials.values()] == [None, 0.5, 0.5, 0.5]
    assert search.best is not None
    assert search.best.number == 2


def test_values_that_do_not_go_together_are_not_tried_and_few_are_tried_once(folder: Path) -> None:
    space = {"train.global_batch": [8, 12], "train.micro_batch": [4, 8]}
    search = TaskSearch(a_queue(folder, accuracy), searched(folder, "few", space=space))
    search.run()
    values = [tuple(trial.values.values()) for trial in search.trials.values()]
    assert sorted(values) == [(8, 4), (8, 8), (12, 4)], "12 is no multiple of 8, and the other three are all"


def test_a_full_queue_is_waited_for(folder: Path) -> None:
    queue = a_queue(folder, accuracy)
    queue.most = 1
    search = TaskSearch(queue, searched(folder, "full", trials=5, at_once=4))
    search.run()
    assert len(search.trials) == 5
    assert queue.at_once == 1


def test_the_name_of_the_best_must_be_free(folder: Path) -> None:
    queue = a_queue(folder, accuracy)
    task = searched(folder, "taken")
    job = queue.submit(task.plain())
    with pytest.raises(ValueError, match="best trial becomes taken, but job a/taken/1"):
        TaskSearch(queue, task)
    while queue.jobs()[0].state not in ENDED:
        pass
    search = TaskSearch(queue, task)
    search.run()
    assert search.submit_best() != job


def test_the_run_of_a_search_is_open_while_it_runs(folder: Path) -> None:
    uri = f"sqlite:///{folder}/mlflow.db"

    def states(name: str) -> list[str]:
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("finetune-a")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], f"tags.`mlflow.runName` = 'a/{name} search'")
        return [run.info.status for run in runs]

    queue = a_queue(folder, accuracy)
    for trials, space in ((2, SPACE), (4, {"adapter.rank": [2, 4, 8]})):
        search = TaskSearch(queue, searched(folder, "open", trials=trials, space=space))
        assert states("open") == ["RUNNING"], "one run, whatever is searched"
        search.run()
        search.submit_best()
        assert states("open") == ["FINISHED"]
    hopeless = TaskSearch(a_queue(folder, lambda values, step: math.nan), searched(folder, "lost", trials=2))
    hopeless.run()
    with pytest.raises(RunFailedError):
        hopeless.submit_best()
    assert states("lost") == ["FAILED"]


def test_what_was_drawn_from_another_kind_of_range_is_of_another_search(folder: Path) -> None:
    queue = a_queue(folder, accuracy)
    spaces = ({"depth": [None, 4]}, {"depth": {"low": 2, "high": 8}}, {"adapter.alpha": [8, 16]})
    for space in (*spaces, {"adapter.alpha": [8.0, 16.0]}):
        search = TaskSearch(queue, searched(folder, "kinds", space=space, trials=2))
        search.run()
        assert len(search.trials) == 2
    assert len(queue.jobs()) == 7, "a depth of 4 is of both"


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"train.learning_rates": [1e-3]}, "search.space: train.learning_rates 0.001: Extra inputs"),
        ({"adapter.rank.more": [1]}, "search.space.adapter.rank.more: a task has no such setting"),
        ({"adapter.more.rank": [1]}, "search.space.adapter.more.rank: a task has no such setting"),
        ({"team": ["x"]}, "search.space.team: a search may draw method, depth, adapter.…, train.…"),
        ({"train": [{}]}, "search.space.train: a search may draw"),
        ({"train.validate_every": [1]}, "search.space.train.validate_every: a search may draw"),
        ({"train.steps": {"low": 1e2, "high": 1e3}}, "search.space: train.steps 443.8: Input should"),
        ({"adapter.rank": 4}, "expected a range, {low: …, high: …}, or a list"),
        ({"adapter.alpha": {"low": 1.0, "high": math.inf}}, "finite"),
        ({"adapter.rank": []}, "search.space.adapter.rank: no values"),
        ({"adapter.rank": {"low": 0, "high": 4}}, "search.space: adapter.rank 0: "),
        ({"train.learning_rate": {"low": 0.1, "high": 100.0}}, "search.space: train.learning_rate 100.0: "),
        ({"method": ["lora", "magic"]}, "search.space: method 'magic': "),
        ({"adapter.rank": {"low": 4, "high": 4}}, "low 4 is not below high 4"),
        ({"train.learning_rate": {"low": 0.0, "high": 0.1, "log": True}}, "must start above zero"),
        ({}, "at least 1"),
    ],
)
def test_a_space_that_cannot_be_drawn_from_is_refused(
    folder: Path, space: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match="search") as error:
        searched(folder, space=space)
    assert message in str(error.value)
