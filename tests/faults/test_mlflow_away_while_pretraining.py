"""MLflow unreachable at the start, later or at registration: training never waits, no value is lost."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from empty_store import empty_store
from ports import free_port
from small_runs import events, run_workers, small_settings, tiny_shape
from stored_models import register_model
from stores import Server, black_hole, server
from waiting import DEADLINE

from cluster import pretrain
from cluster.resolve import resolve_run
from cluster.runs.events import Event, EventLog
from cluster.tracking import runs, store, upload
from cluster.tracking.inputs import dataset_input
from data.manifest import load_manifest
from odeformer import checkpoint
from odeformer.model import Odeformer


def history(uri: str, run_id: str, key: str = "loss") -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in store.connect(uri).get_metric_history(run_id, key)]


NEVER = str(10**6)
"""Seconds that MLflow waits for an answer: whoever waits for it misses the tests' deadline."""


def report(tracker: upload.Tracker, steps: range, seconds: float = 0.01) -> None:
    """Report steps like a training loop."""
    for step in steps:
        tracker("step", step, {"loss": step / 7})
        time.sleep(seconds)


def returns(work: Callable[[], object]) -> bool:
    """Whether a call ends, by returning or by raising."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    return not thread.is_alive()


def expected(steps: range) -> list[tuple[int, float]]:
    return [(step, step / 7) for step in steps]


@pytest.mark.slow
def test_a_server_that_goes_and_comes_back_has_every_value_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with server(tmp_path / "server") as away:
        runs.start_run(away.uri, "experiment", "name", {"a": 1}, folder)
        with upload.Tracker(folder) as tracker:
            report(tracker, range(1, 101), 0.02)
            away.stop()
            report(tracker, range(101, 301))
            away.start()
            report(tracker, range(301, 401))
        run_id = runs.open_run(folder)
        assert history(away.uri, run_id) == expected(range(1, 401))
        assert store.connect(away.uri).get_run(run_id).info.status == "FINISHED"
    assert len(events(folder, "tracking_away")) == len(events(folder, "tracking_back")) == 1


def test_a_run_that_starts_without_a_server_is_sent_by_a_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "FINISH_SECONDS", 0.5)
    away, folder = Server(tmp_path / "server"), tmp_path / "run"
    data = dataset_input("shards", "d" * 64, "s3://bucket/shards", {"documents": 3}, "training")
    with pytest.raises(ConnectionError):
        runs.start_run(away.uri, "experiment", "name", {"train": {"steps": 9}}, folder, inputs=[data])
    with upload.Tracker(folder) as tracker:
        report(tracker, range(1, 11))
    EventLog(folder)(Event.SCORED, 10, {"task/acc_4": 0.5})
    try:
        away.start()
        for _ in range(2):
            upload.sync(folder)
            (folder / upload.SENT_FILE).unlink()  # as if it had been killed before it could note that
        run_id = runs.open_run(folder)
        check_scores(away.uri, run_id)
        run = store.connect(away.uri).get_run(run_id)
        [logged] = run.inputs.dataset_inputs
        assert (logged.dataset.name, logged.dataset.digest) == ("shards/training", "d" * 36)
        assert (logged.dataset.source_type, logged.dataset.profile) == ("s3", '{"documents": 3}')
        assert run.data.params == {"train.steps": "9"}
        assert run.info.status == "FINISHED"
        times = [m.timestamp for m in store.connect(away.uri).get_metric_history(run_id, "loss")]
        assert times == [int(1000 * event["time"]) for event in events(folder, "step")]
        assert runs.start_run(away.uri, "experiment", "name", {}, folder) == run_id
    finally:
        away.stop()


def check_scores(uri: str, run_id: str) -> None:
    """There is one logged model, of step 10, and its score is there once, in the run as well."""
    client = store.connect(uri)
    [model] = client.search_logged_models([client.get_run(run_id).info.experiment_id])
    assert (model.name, model.source_run_id, str(model.status)) == ("step-000000010", run_id, "READY")
    [score] = model.metrics
    [of_run] = client.get_metric_history(run_id, "task/acc_4")
    assert (score.key, score.value, score.step) == (of_run.key, of_run.value, of_run.step)
    assert of_run.step == 10


def test_steps_computed_again_and_batches_sent_again_add_nothing(tmp_path: Path) -> None:
    uri, folder = empty_store(tmp_path), tmp_path / "run"
    run_id = runs.start_run(uri, "experiment", "name", {}, folder)
    with pytest.raises(ZeroDivisionError), upload.Tracker(folder) as tracker:
        report(tracker, range(1, 21), 0)
        raise ZeroDivisionError
    upload.sync(folder)
    with (folder / "events.jsonl").open("a") as log:
        log.write('{"time": 5, "event": "step", "st')  # killed while it wrote
    sent = (folder / upload.SENT_FILE).read_text()
    with upload.Tracker(folder) as tracker:
        tracker("resumed", 15, {})
        report(tracker, range(16, 31), 0)
    assert history(uri, run_id) == expected(range(1, 31))
    for known in (sent, None):  # killed between an answered batch and the note of it, or the note is lost
        (folder / upload.SENT_FILE).unlink()
        if known is not None:
            (folder / upload.SENT_FILE).write_text(known)
        upload.sync(folder)
        assert history(uri, run_id) == expected(range(1, 31))
    assert len(events(folder, "step")) == 20 + 15, "the log has both"


def test_a_port_that_never_answers_holds_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setattr(upload, "FINISH_SECONDS", 0.5)
    with black_hole() as uri:
        with pytest.raises(ConnectionError):
            runs.start_run(uri, "experiment", "name", {}, tmp_path)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", NEVER)

        def reporting() -> None:
            with upload.Tracker(tmp_path) as tracker:
                report(tracker, range(1, 301))

        assert returns(reporting)
    assert [event["step"] for event in events(tmp_path, "step")] == list(range(1, 301))
    assert len(events(tmp_path, "tracking_behind")) == 1


@pytest.mark.slow
def test_a_port_that_never_answers_holds_no_step(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    with black_hole() as uri:
        made = small_settings(shards, tmp_path, tracking={"uri": uri}, train={"steps": 12}, zero={"stage": 0})
        with pytest.raises(ConnectionError):
            runs.start_run(uri, "test", "test", made.model_dump(mode="json"), made.run.dir)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", NEVER)
        assert returns(lambda: run_workers(made, starts_run=False))
    assert [event["step"] for event in events(made.run.dir, "step")] == list(range(1, 13))
    assert (made.run.dir / "final" / "model.safetensors").is_file()


def test_what_was_trained_is_registered_later(tmp_path: Path, shards: Path) -> None:
    there = f"sqlite:///{tmp_path}/mlflow.db"
    made = small_settings(
        shards,
        tmp_path,
        tracking={"uri": there, "register_as": "late"},
        train={"steps": 2},
        cluster={"workers": 1},
    )
    with pytest.raises(FileNotFoundError, match=r"mlflow.json"):
        pretrain.register_finished_run(made.run.dir)
    run_workers(made)
    nobody = f"http://127.0.0.1:{free_port()}"
    moved = made.model_copy(update={"tracking": made.tracking.model_copy(update={"uri": nobody})})
    with pytest.raises(ConnectionError):
        runs.start_run(nobody, "e", "n", moved.model_dump(mode="json"), moved.run.dir)
    with pytest.raises(ConnectionError):
        pretrain.register_weights(moved, seconds=3)
    runs.start_run(there, "e", "n", made.model_dump(mode="json"), made.run.dir)
    version = pretrain.register_finished_run(made.run.dir)
    assert (version.uri, version.aliases) == ("models:/late/1", ("candidate", "champion"))
    assert pretrain.register_finished_run(made.run.dir).uri == version.uri


def test_a_run_that_goes_on_does_not_ask_for_its_initial_weights(tmp_path: Path, shards: Path) -> None:
    uri = empty_store(tmp_path)
    shape = tiny_shape(load_manifest(shards).vocabulary_size, 32)
    state = Odeformer(shape).state_dict()
    checkpoint.save(state, shape, "euler", shards / "tokenizer.json", tmp_path / "weights")
    register_model(tmp_path / "weights", uri, tmp_path)
    whole = small_settings(shards, tmp_path, cluster={"workers": 1}, checkpoint={"every": 1})

    def run_to(step: int) -> None:
        train = whole.train.model_copy(update={"steps": step})
        run = resolve_run(whole.model_copy(update={"init": "models:/base@champion", "train": train}))
        run.write_identity()
        run_workers(run.settings)

    run_to(2)
    (tmp_path / "mlflow.db").unlink()
    shutil.rmtree(os.environ["ODEFORMER_CACHE"])
    run_to(4)
    assert [event["step"] for event in events(tmp_path / "run", "resumed")] == [2]
    assert [event["step"] for event in events(tmp_path / "run", "step")] == [1, 2, 3, 4]
