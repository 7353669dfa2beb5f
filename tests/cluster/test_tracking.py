"""The MLflow store after a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from empty_store import empty_store
from ports import free_port
from small_runs import check_event

from cluster.runs.events import Event, EventLog, EventReader, Restart
from cluster.tracking import runs, store, upload


def test_metrics_settings_and_status_arrive(tmp_path: Path) -> None:
    uri = empty_store(tmp_path)
    run_id = runs.start_run(uri, "experiment", "name", {"train": {"steps": 3}}, tmp_path / "run")
    with upload.Tracker(tmp_path / "run") as tracker:
        for step in range(1, 4):
            tracker("step", step, {"loss": 1.0 / step})
    client = store.connect(uri)
    history = client.get_metric_history(run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"train.steps": "3"}
    # Artifacts lie beside the store, not in whatever folder the process ran.
    assert run.info.artifact_uri.startswith((tmp_path / "artifacts").as_uri())
    assert [f.path for f in client.list_artifacts(run_id)] == ["settings.json"]


def test_a_run_that_raised_is_failed_until_it_runs_again(tmp_path: Path) -> None:
    uri = empty_store(tmp_path)
    run_id = runs.start_run(uri, "experiment", "name", {}, tmp_path / "run")
    client = store.connect(uri)
    for error, status in ((ZeroDivisionError, "FAILED"), (KeyboardInterrupt, "KILLED")):
        with (
            pytest.raises(error),
            upload.ended(tmp_path / "run"),
            upload.Tracker(tmp_path / "run") as tracker,
        ):
            tracker("step", 1, {"loss": 1.0})
            raise error
        assert client.get_run(run_id).info.status == status
    runs.start_run(uri, "experiment", "name", {}, tmp_path / "run")
    assert client.get_run(run_id).info.status == "RUNNING"


def test_a_resumed_run_keeps_its_mlflow_run(tmp_path: Path) -> None:
    uri = empty_store(tmp_path)
    first = runs.start_run(uri, "experiment", "name", {}, tmp_path / "run")
    assert runs.start_run(uri, "experiment", "name", {}, tmp_path / "run") == first
    assert runs.start_run(uri, "experiment", "name", {}, tmp_path / "other") != first


def test_a_relative_store_is_the_same_from_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert store.tracking_uri("sqlite:///a/b.db") == f"sqlite:///{tmp_path}/a/b.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///c.db")
    assert store.tracking_uri() == f"sqlite:///{tmp_path}/c.db"
    assert store.tracking_uri("http://host:5000") == "http://host:5000"


def test_a_reader_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    reader = EventReader(tmp_path)
    assert reader.new() == []
    log = tmp_path / "events.jsonl"
    log.write_text('{"step": 1}\n{"st')
    assert reader.new() == [{"step": 1}]
    with log.open("a") as file:
        file.write('ep": 2}\n')
    assert reader.new() == [{"step": 2}]
    assert reader.new() == []


def test_a_line_of_the_log_keeps_its_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.runs.events.time.time", lambda: 1.5)
    restart: Restart = {"pause": 2.0, "left": 1, "preemption": False}
    EventLog(tmp_path)(Event.RESTARTING, 3, {"reason": "why", "restart": restart})
    assert (tmp_path / "events.jsonl").read_text() == (
        '{"time": 1.5, "event": "restarting", "step": 3, "reason": "why", '
        '"restart": {"pause": 2.0, "left": 1, "preemption": false}}\n'
    )


def test_events_are_listed_once_with_their_fields() -> None:
    assert len(set(Event)) == len(Event.__members__), "a repeated name would be an alias"
    assert Event("rollback").fields == ("reason", "to")
    with pytest.raises(AssertionError, match="rollback: reasons is not listed"):
        check_event({"time": 0.0, "event": "rollback", "step": 1, "reasons": "a misspelt field"})


def test_a_database_server_that_is_away_is_tried_once_like_any_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for scheme in ("postgresql", "mysql+pymysql"):
        with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:.* cannot be used: .*refused"):
            store.connect(f"{scheme}://mlflow@127.0.0.1:{free_port()}/mlflow")
    assert "retried" not in caplog.text, "MLflow's own tries take minutes"


def test_passwords_in_addresses_are_stored_nowhere(tmp_path: Path) -> None:
    uri, folder = empty_store(tmp_path), tmp_path / "run"
    settings = {"data": {"shards": "http://me:secret@host/s"}, "checkpoint": {"mirror": "s3://a:secret@b/c"}}
    run_id = runs.start_run(uri, "experiment", "name", settings, folder)
    client = store.connect(uri)
    assert client.get_run(run_id).data.params == {
        "data.shards": "http://***@host/s",
        "checkpoint.mirror": "s3://***@b/c",
    }
    with pytest.raises(ConnectionError, match=r"http://\*\*\*@127.0.0.1:9 cannot be used") as away:
        runs.start_run("http://me:secret@127.0.0.1:9", "experiment", "name", settings, folder)
    EventLog(folder)("tracking_away", 0, {"reason": "http://me:secret@host is away"})
    kept = [*folder.iterdir(), *(path for path in (tmp_path / "artifacts").rglob("*") if path.is_file())]
    assert not [path for path in kept if b"secret" in path.read_bytes()]
    assert "secret" not in str(away.value)
    assert runs.run_uri(folder) == "http://me:secret@127.0.0.1:9", "this process was given it"


def test_a_server_that_only_a_folder_names_is_not_sent_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def named(uri: str) -> Path:
        runs.write_json(tmp_path / runs.RUN_FILE, {"tracking_uri": uri, "key": "k", "settings": {}})
        return tmp_path

    monkeypatch.setattr(store, "_named", {})
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in store.CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert runs.run_uri(named("http://other:5000")) == "http://other:5000", "there is nothing to send"
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    with pytest.raises(
        ValueError, match=r"mlflow.json is the MLflow store http://other:5000, which .*--tracking-uri"
    ):
        runs.run_uri(tmp_path)
    with pytest.raises(ValueError, match="lacks its password"):
        runs.run_uri(named("http://***@mine:5000"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@mine:5000")
    assert runs.run_uri(tmp_path) == "http://me:secret@mine:5000"
    store.tracking_uri("http://other:5000")  # as --tracking-uri does
    assert runs.run_uri(named("http://other:5000")) == "http://other:5000"


@pytest.mark.parametrize("name", ["feature%2Fx", "what?x=1", "a b#c%d"])
def test_a_store_in_an_oddly_named_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / name
    empty_store(folder / "runs")
    monkeypatch.chdir(folder)
    uri = store.tracking_uri(f"sqlite:///{folder}/runs/mlflow.db")
    assert uri == store.tracking_uri("sqlite:///runs/mlflow.db") == store.tracking_uri(uri)
    assert store.sqlite_file(uri) == folder / "runs" / "mlflow.db"
    run_id = runs.start_run(uri, "experiment", "name", {"a": 1}, folder / "run")
    assert store.connect(uri).get_run(run_id).data.params == {"a": "1"}
    assert (folder / "runs" / "artifacts" / run_id / "artifacts" / "settings.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name], "nothing beside it"


def test_a_store_with_options(tmp_path: Path) -> None:
    uri = store.tracking_uri(f"{empty_store(tmp_path)}?timeout=30")
    assert uri == f"sqlite:///{tmp_path}/mlflow.db?timeout=30"
    assert store.sqlite_file(uri) == tmp_path / "mlflow.db"
    runs.start_run(uri, "experiment", "name", {}, tmp_path / "run")
    assert {path.name for path in tmp_path.iterdir()} >= {"mlflow.db", "artifacts", "run"}
    assert not list(tmp_path.glob("*timeout*"))
