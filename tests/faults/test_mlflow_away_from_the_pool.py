"""MLflow is away while the pool has work: no job is lost, none is registered twice."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from small_tasks import a_task, register_base
from stores import server
from waiting import wait_for

from cluster import registry
from cluster.connection.connect import ray_cluster
from cluster.finetuning.job import VERSION_FILE
from cluster.pool import Pool, PoolSettings, mlflow_sync
from cluster.pool.board import Board
from cluster.pool.job import JobRecord
from cluster.pool.journal import Journal
from cluster.pool.mlflow_sync import MlflowSync
from cluster.tags import JOB, JOB_STATE
from cluster.tracking import runs, store


def test_what_was_trained_is_registered_when_the_store_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is a broken file at first."""
    folder = tmp_path / "a" / "x-1"
    good = f"sqlite:///{tmp_path}/good.db"
    runs.start_run(good, "finetune-a", "a/x", {}, folder)
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter.json").write_text("{}")
    (folder / VERSION_FILE).write_text(json.dumps({"name": "base--a--x", "tags": {}, "files": "adapter"}))
    record = json.loads((folder / runs.RUN_FILE).read_text())
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    (folder / runs.RUN_FILE).write_text(json.dumps({**record, "tracking_uri": uri}))
    (tmp_path / "mlflow.db").write_text("no database " * 100)

    board = Board(Journal(tmp_path / "pool"), PoolSettings(dir=tmp_path))
    journal, lock = board.journal, threading.RLock()
    task = {"team": "a", "name": "x", "base": "models:/base/1", "priority": 0}
    job = board.move(board.submit(task, "token", None, again=False), "running", attempts=1)
    board.move(job, "trained", result={"after": 1.0, "adapter_version": None})
    clerk, tries = MlflowSync(board, lock), []
    register = mlflow_sync.register_trained_job

    def register_and_note(*arguments: Any) -> dict[str, Any]:
        tries.append(arguments)
        return register(*arguments)

    monkeypatch.setattr(mlflow_sync, "register_trained_job", register_and_note)
    clerk.start()
    wait_for(lambda: len(tries) >= 2)
    with lock:
        assert journal.job(job.id).state == "trained"
        assert journal.unmirrored()
    shutil.copyfile(tmp_path / "good.db", tmp_path / "mlflow.db")

    def state() -> str:
        with lock:
            return "" if journal.unmirrored() else journal.job(job.id).state

    assert wait_for(state) == "succeeded"
    assert journal.job(job.id).result == {"after": 1.0, "adapter_version": "1"}
    assert [version.uri for version in registry.versions(uri)] == ["models:/base--a--x/1"]
    assert mlflow_sync.register_trained_job(journal.job(job.id), folder)["adapter_version"] == "1", (
        "again, and no second one"
    )
    run = store.connect(uri).get_run(record["run_id"])
    assert run.data.tags[JOB_STATE] == "succeeded"
    assert run.data.tags[JOB] == "a/x/1"
    assert run.info.status == "FINISHED"
    clerk.stop()


def test_what_the_registry_refuses_fails_alone_and_whatever_happens_is_tried_again(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    board, lock = (
        Board(Journal(tmp_path / "pool"), PoolSettings(dir=tmp_path, tracking_uri=uri)),
        threading.RLock(),
    )
    jobs = {}
    for name in ("refused", "cancelled", "odd", "good"):
        task = {"team": "a", "name": name, "base": "models:/base/1", "priority": 0}
        job = board.move(board.submit(task, name, None, again=False), "running", attempts=1)
        result = {"adapter_model": f"base--a--{name}", "adapter_version": None}
        jobs[name] = board.move(job, "trained", result=result).id
    tries = dict.fromkeys(jobs, 0)

    def register(job: JobRecord, folder: Path) -> dict[str, Any]:
        tries[job.name] += 1
        if job.name == "refused":
            raise store.RefusedError("Permission denied")
        if job.name == "odd":
            raise ConnectionError("the store answers, but not to this")
        if job.name == "cancelled":
            with lock:
                board.move(job, "cancelled")
        if tries["good"] == 1:
            raise SystemExit("a library's")
        return {**(job.result or {}), "adapter_version": "1"}

    monkeypatch.setattr(mlflow_sync, "register_trained_job", register)
    monkeypatch.setattr(mlflow_sync, "LONGEST_PAUSE", 0.1)
    clerk = MlflowSync(board, lock)
    clerk.start()

    def states() -> dict[str, str]:
        with lock:
            return {job.name: job.state for job in board.journal.jobs()}

    wait_for(lambda: states()["good"] == "succeeded" and tries["odd"] > 1 and not board.journal.unmirrored())
    assert states() == {"refused": "failed", "cancelled": "cancelled", "odd": "trained", "good": "succeeded"}
    error = board.journal.job(jobs["refused"]).error
    assert error == (
        "models:/base--a--refused or its log base--a--refused.history is another account's: Permission denied"
    )
    assert tries["refused"] == 1
    clerk.stop()


@pytest.mark.slow
def test_jobs_are_trained_to_their_end_while_mlflow_is_away(tmp_path: Path) -> None:
    with server(tmp_path / "server") as mlflow:
        register_base(tmp_path, mlflow.uri)
        settings = PoolSettings(dir=tmp_path / "pool", tracking_uri=mlflow.uri)
        with ray_cluster(None, finetune_slots=2), Pool.start(settings) as pool:
            ids = [
                pool.submit(a_task(tmp_path, team, f"t{number}", steps=steps))
                for number, steps in enumerate((300, 20, 20))
                for team in ("a", "b")
            ]
            begun = [Path(pool.job(job).folder) / "events.jsonl" for job in ids[:2]]
            wait_for(lambda: all(log.exists() and '"step"' in log.read_text() for log in begun))
            mlflow.stop()
            wait_for(lambda: sum(job.state == "trained" for job in pool.jobs()) >= 2)
            states = {job.state for job in pool.jobs()}
            assert states <= {"queued", "running", "trained", "succeeded"}, pool.jobs()
            mlflow.start()
            jobs = pool.wait(*ids)
        assert [job.state for job in jobs] == ["succeeded"] * len(ids)
        names = [version.name for version in registry.versions(mlflow.uri) if version.name != "base"]
        assert sorted(names) == sorted(f"base--{job.team}--{job.name}" for job in jobs)
        for job in jobs:
            steps = [
                event["step"]
                for event in map(json.loads, (Path(job.folder) / "events.jsonl").read_text().splitlines())
                if event["event"] == "step"
            ]
            assert steps == list(range(1, job.task["train"]["steps"] + 1)), "nothing was trained twice"
