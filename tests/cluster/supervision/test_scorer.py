"""Commits are scored beside a run: as ``odeformer eval`` does, repeated once, and kept until then."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forked
import pytest
from small_runs import check_event, events, run_workers, small_settings
from waiting import wait_for

from cluster.checkpoints import folder, scores
from cluster.checkpoints.scores import Record
from cluster.connection.connect import ray_cluster
from cluster.pretrain import register_weights
from cluster.runs import heartbeat
from cluster.runs.events import Event
from cluster.settings import PretrainSettings
from cluster.supervision.scorer import scoring_beside
from cluster.tracking import runs, store, upload
from odeformer.files.digest import folder_digest


@dataclass(frozen=True)
class Trained:
    """A run of six steps, restarted after three, whose chosen commits wait."""

    settings: PretrainSettings
    commits: Path

    def copy(self, to: Path, **evaluate: Any) -> PretrainSettings:
        """The run in another folder, with other things to score."""
        shutil.copytree(self.settings.run.dir, to / "run")
        shutil.copy(self.settings.run.dir.parent / "mlflow.db", to)
        record = to / "run" / runs.RUN_FILE
        record.write_text(record.read_text().replace(str(self.settings.run.dir.parent), str(to)))
        content = self.settings.model_dump(mode="json")
        content["run"]["dir"], content["tracking"]["uri"] = str(to / "run"), f"sqlite:///{to}/mlflow.db"
        content["evaluate"] |= evaluate
        return PretrainSettings.model_validate(content)


@pytest.fixture(scope="module")
def trained(shards: Path, text_files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    place = tmp_path_factory.mktemp("scored")
    text = place / "heap.py"
    text.write_text(text_files[3].read_text()[:4000])
    settings = small_settings(
        shards,
        place,
        model={"width": 16, "context_length": 320},
        cluster={"workers": 1},
        checkpoint={"every": 1, "keep": 1},
        evaluate={
            "every": 2,
            "tasks": ["python_next_line"],
            "limit": 4,
            "texts": [str(text)],
            "prompts": ["def ", "import"],
            "depths": [2, 4],
        },
        register={"best": "heap.py/nats_per_token"},
        tracking={"register_as": "heap"},
    )
    scores.write(settings.run.dir, Record(every=2, last=6))
    train = settings.train.model_copy(update={"steps": 3})
    run_workers(settings.model_copy(update={"train": train}))
    run_workers(settings)  # resumes it
    return Trained(settings, settings.run.dir / "checkpoints")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with ray_cluster(None, pretrain_workers=1):
        yield


def score(settings: PretrainSettings) -> list[dict[str, Any]]:
    """Score what waits, and send it; the events that were shown."""
    shown: list[dict[str, Any]] = []
    with scoring_beside(settings, shown.append) as finish:
        finish()
    for event in shown:
        check_event(event)
    upload.sync(settings.run.dir)
    return shown


def test_commits_that_wait_are_kept_also_by_a_restart(trained: Trained) -> None:
    assert [folder.step_of(commit) for commit in folder.commits(trained.commits)] == [2, 4, 6]


def test_scores_are_those_of_eval(trained: Trained, cluster: None, tmp_path: Path) -> None:
    settings = trained.copy(tmp_path)
    run, uri = settings.run.dir, settings.tracking.uri
    assert uri is not None
    scores.write(run, Record(every=2, last=6, done=[2]))
    model = run / "checkpoints" / folder.name(4)
    options = ("--depth", "2", "--depth", "4", "--tasks", "python_next_line", "--limit", "4", "--json")
    done = forked.run("eval", "--model", model, "--text", settings.evaluate.texts[0], *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = json.loads(done.stdout)

    shown = score(settings)
    assert [event["event"] for event in shown] == [Event.SCORES_WAIT, Event.SCORED, Event.SCORED]
    [four] = [event for event in shown if event["step"] == 4]
    values = {f"heap.py/nats_per_token_{each['depth']}": each["nats_per_token"] for each in expected["text"]}
    values |= {f"heap.py/bits_per_byte_{each['depth']}": each["bits_per_byte"] for each in expected["text"]}
    values |= {
        f"{each['task']}/{each['metric']}_{each['depth']}": each["value"] for each in expected["tasks"]
    }
    assert {name: value for name, value in four.items() if "/" in name} == values
    assert len(values) == 8

    client, run_id = store.connect(uri), runs.open_run(run)
    for name, value in values.items():
        history = {each.step: each.value for each in client.get_metric_history(run_id, name)}
        assert list(history) == [4, 6]
        assert history[4] == value
    assert [folder.step_of(commit) for commit in folder.commits(run / "checkpoints")] == [6]
    assert not (run / "scoring").exists()
    table = json.loads((run / "samples.json").read_text())
    assert [row[:3] for row in table["data"]] == [
        [step, depth, prompt] for step in (4, 6) for depth in (2, 4) for prompt in ("def ", "import")
    ]
    assert all(row[3] for row in table["data"])
    check_registered(settings, shown)
    assert score(settings) == [], "nothing is scored again"


def check_registered(settings: PretrainSettings, shown: list[dict[str, Any]]) -> None:
    """The best commit is registered, and its logged model and version name each other."""
    run, uri, name = settings.run.dir, settings.tracking.uri, "heap.py/nats_per_token_4"
    assert uri is not None
    scored = [event for event in shown if event["event"] == Event.SCORED]
    best = min(scored, key=lambda event: event[name])
    record = scores.read(run)
    assert record is not None
    assert record.best == scores.Best(step=best["step"], score=name, value=best[name])
    for _ in range(2):
        version = register_weights(settings)
    assert version.tags["odeformer.digest"] == folder_digest(run / "best")

    client = store.connect(uri)
    experiment = client.get_run(runs.open_run(run)).info.experiment_id
    models = {model.name: model for model in client.search_logged_models([experiment])}
    assert sorted(models) == [folder.name(step) for step in (4, 6)]
    for event in scored:
        model = client.get_logged_model(models[folder.name(event["step"])].model_id)
        assert {each.key: each.value for each in model.metrics} == {
            key: value for key, value in event.items() if "/" in key
        }
        assert str(model.status) == "READY"
        versions = json.loads(model.tags.get("mlflow.modelVersions", "[]"))
        is_best = event is best
        assert versions == ([{"name": "heap", "version": "1"}] if is_best else [])
        if is_best:
            assert version.tags.get("odeformer.logged_model") in (None, model.model_id)
            assert client.get_model_version("heap", "1").tags["odeformer.logged_model"] == model.model_id


def test_a_scoring_that_dies_or_hangs_is_repeated_once(
    trained: Trained, cluster: None, tmp_path: Path
) -> None:
    nobody_writes = tmp_path / "pipe"
    os.mkfifo(nobody_writes)
    settings = trained.copy(tmp_path, tasks=[], texts=[str(nobody_writes)])
    settings = settings.model_copy(
        update={"cluster": settings.cluster.model_copy(update={"stuck_after": 5.0})}
    )
    scores.write(settings.run.dir, Record(every=2, last=6, done=[2, 6]))
    beats = settings.run.dir / "scoring" / heartbeat.FOLDER / "0.json"
    seen: set[int] = set()

    def meet(number: signal.Signals) -> None:
        def pid() -> int | None:
            with suppress(OSError, ValueError):
                found = int(json.loads(beats.read_text())["pid"])
                return found if found not in seen else None
            return None

        found = wait_for(pid)
        seen.add(found)
        os.kill(found, number)

    def kill_and_stop() -> None:
        meet(signal.SIGKILL)
        meet(signal.SIGSTOP)

    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill_and_stop)
        shown = score(settings)
        killing.result()
    assert [event["event"] for event in shown] == [
        Event.SCORES_WAIT,
        Event.SCORING_REPEATED,
        Event.NOT_SCORED,
    ]
    assert "its process died" in shown[1]["reason"]
    assert "stuck: no heartbeat" in shown[2]["reason"]
    record = scores.read(settings.run.dir)
    assert record is not None
    assert (record.failed, 4 in record.done) == ([4, 4], True)
    assert not (settings.run.dir / "scoring").exists()
    assert events(settings.run.dir, Event.SCORED) == []
