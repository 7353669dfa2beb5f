"""Jobs of several teams in one slot of a real pool, trained in one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pool_tasks import most_slots, process_of
from small_runs import events
from small_tasks import a_task, register_base
from waiting import wait_for

from cluster import registry
from cluster.connection.connect import ray_cluster
from cluster.pool import Job, Pool, PoolSettings
from cluster.runs import lock
from cluster.tasks.task import Task
from launcher.tables.pool import status_line, summary

NAMES = (("one", "x"), ("one", "y"), ("other", "z"))
LONG = {"steps": 100_000, "learning_rate": 1e-4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the base, the tasks' data and the pool are."""
    folder = tmp_path_factory.mktemp("shared")
    register_base(folder)
    return folder


@pytest.fixture(scope="module")
def settings(folder: Path) -> PoolSettings:
    return PoolSettings(dir=folder / "pool", tracking_uri=f"sqlite:///{folder}/mlflow.db", jobs_per_slot=3)


@pytest.fixture(scope="module")
def pool(settings: PoolSettings) -> Iterator[Pool]:
    """A pool of one slot, which is not warm yet."""
    with ray_cluster(None, finetune_slots=1), Pool.start(settings) as pool:
        yield pool


def alike(folder: Path, team: str, name: str, **changes: Any) -> Task:
    """Of one shape; the rank and the order of the examples are each task's own."""
    rank = {"rank": 2 if name.endswith("y") else 4}
    train = {"sequence_length": 8, "seed": ord(name[-1]), **changes.pop("train", {})}
    return a_task(folder, team, name, adapter=rank, train=train, **changes)


def losses(job: Job) -> list[float]:
    return [event["loss"] for event in events(Path(job.folder), "step")]


def processes(*jobs: Job) -> set[str]:
    """Those that held the jobs' folders last."""
    return {(Path(job.folder) / lock.FILE_NAME).read_text() for job in jobs}


def at_work(pool: Pool, *ids: str) -> list[Job]:
    """The jobs, once each has made a step."""
    return [wait_for(lambda id_=id_: pool.job(id_) if losses(pool.job(id_)) else None) for id_ in ids]


def test_jobs_that_would_wait_are_trained_together_as_they_would_be_alone(
    pool: Pool, settings: PoolSettings, folder: Path
) -> None:
    ids = [pool.submit(alike(folder, *name, steps=12)) for name in NAMES]
    longer = pool.submit(alike(folder, "other", "longer", train={"sequence_length": 16}))
    *three, apart = pool.wait(*ids, longer)
    assert [job.state for job in (*three, apart)] == ["succeeded"] * 4, [job.error for job in three]
    assert len(processes(*three)) == 1
    assert processes(apart) != processes(*three), "it is of another shape"
    assert most_slots(pool.transitions()) == 1
    begun = pool.job(ids[1]).history[1]
    assert sorted(begun.reason.removeprefix("together with ").split(", ")) == [ids[0], ids[2]]

    Pool.start(settings.model_copy(update={"jobs_per_slot": 1}))
    alone = pool.wait(*(pool.submit(alike(folder, team, f"alone-{name}", steps=12)) for team, name in NAMES))
    assert len(processes(*alone)) == 3
    for one, other in zip(three, alone, strict=True):
        assert len(losses(one)) == 12
        assert losses(one) == pytest.approx(losses(other), rel=1e-5)
        assert one.result["after"] == other.result["after"]
    versions = [version.name for version in registry.versions(pool.uri())]
    made = [f"base--{team}--{name}" for team, name in NAMES]
    assert sorted(v for v in versions if "alone" not in v) == sorted(["base", "base--other--longer", *made])


def together(pool: Pool, folder: Path, *tasks: Task) -> list[str]:
    """Submit tasks that begin together: the slot has another job until all of them wait."""
    first = pool.submit(a_task(folder, "first", f"before-{tasks[0].name}", train=LONG))
    wait_for(lambda: pool.job(first).state == "running")
    ids = [pool.submit(task) for task in tasks]
    pool.cancel(first)
    return ids


def test_those_whose_process_is_killed_go_on_one_by_one(
    pool: Pool, settings: PoolSettings, folder: Path
) -> None:
    Pool.start(settings)
    pair = together(
        pool, folder, alike(folder, "pair", "p", steps=200), alike(folder, "pair", "q", steps=190)
    )
    jobs = at_work(pool, *pair)
    process = process_of(jobs[0])
    assert process is not None
    process.suspend()
    assert [job.together_with for job in map(pool.job, pair)] == [[pair[1]], [pair[0]]]
    assert summary(pool.job(pair[0])) == "shares its slot with 1 more"
    assert "1 slots busy with 2 jobs, 0 free" in status_line(pool.status())
    process.kill()
    ended = pool.wait(*pair)
    assert [(job.state, job.attempts) for job in ended] == [("succeeded", 2)] * 2
    assert len(processes(*ended)) == 2
    for job in map(pool.job, pair):
        assert job.history[2].reason == "its process died (killed, or out of memory)"
        assert job.history[3].reason is None, "alone"


def test_one_leaves_alone_and_all_make_room(pool: Pool, folder: Path) -> None:
    tasks = [alike(folder, "long", name, train=LONG) for name in ("first", "second", "third")]
    cancelled, *others = together(pool, folder, *tasks)
    at_work(pool, cancelled, *others)
    pool.cancel(cancelled)
    [job] = pool.wait(cancelled)
    assert job.state == "cancelled"
    assert [job.state for job in map(pool.job, others)] == ["running", "running"]
    [urgent] = pool.wait(pool.submit(a_task(folder, "urgent", priority=5)))
    assert urgent.state == "succeeded", urgent.error
    for job in map(pool.job, others):
        assert job.history[2].reason == "preempted by a higher priority"
        [committed] = [event["step"] for event in events(Path(job.folder), "preempted")]
        resumed = wait_for(lambda job=job: events(Path(job.folder), "resumed"))
        assert resumed[0]["step"] == committed
    assert [len(job.together_with) for job in map(pool.job, others)] == [1, 1], "again"
    for id_ in others:
        pool.cancel(id_)
    assert [job.state for job in pool.wait(*others)] == ["cancelled", "cancelled"]
