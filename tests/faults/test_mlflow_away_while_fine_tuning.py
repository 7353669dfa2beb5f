"""MLflow, or the storage behind it, goes away while a job is trained, or when what it made is registered."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from forked import spawn
from small_runs import events
from small_tasks import base_folder, register_base, small_task
from stores import server
from waiting import wait_for

from cluster import registry
from cluster.finetuning import job as finetuning
from cluster.tracking import runs, store


def job(index: int, folder: Path, uri: str) -> None:
    """A job that waits, once it has its base, until nobody answers any more."""
    fetch = registry.fetch

    def fetch_and_wait(model: str, uri: str | None = None) -> Path:
        found = fetch(model, uri)
        (folder / "fetched").touch()
        while not (folder / "gone").exists():
            time.sleep(0.05)
        return found

    registry.fetch = fetch_and_wait
    torch.set_num_threads(1)
    (folder / "job").mkdir()
    result = finetuning.finetune(small_task(folder, "late", 6), folder / "job", uri, register_seconds=2.0)
    (folder / "result.json").write_text(json.dumps(asdict(result)))
    os._exit(0)


@pytest.mark.slow
def test_a_job_is_trained_without_mlflow_and_its_adapter_registered_later(tmp_path: Path) -> None:
    with server(tmp_path / "server") as mlflow:
        register_base(tmp_path, mlflow.uri)
        process = spawn(job, args=(tmp_path, mlflow.uri), nprocs=1, join=False)
        wait_for((tmp_path / "fetched").exists)
        mlflow.stop()
        (tmp_path / "gone").touch()
        wait_for(lambda: process.join(timeout=1))
        result = json.loads((tmp_path / "result.json").read_text())
        assert result["adapter_version"] is None
        assert [event["step"] for event in events(tmp_path / "job", "step")] == list(range(1, 7))
        assert len(events(tmp_path / "job", "not_registered")) == 1
        with pytest.raises(ConnectionError):
            finetuning.register_job(tmp_path / "job")

        mlflow.start()
        version = finetuning.register_job(tmp_path / "job")
        assert (version.uri, version.aliases) == ("models:/base--small--late/1", ("candidate", "champion"))
        assert finetuning.register_job(tmp_path / "job").uri == version.uri
        client, run_id = store.connect(mlflow.uri), runs.open_run(tmp_path / "job")
        assert [m.step for m in client.get_metric_history(run_id, "loss")] == list(range(1, 7))
        run = client.get_run(run_id)
        assert run.info.status == "FINISHED"
        assert run.data.tags["odeformer.base_version"] == "1"


def test_storage_that_refuses_is_a_store_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    storage = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    storage.start()
    address = "http://{}:{}".format(*storage.get_host_and_port())
    for name, value in {
        "MLFLOW_S3_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=address).create_bucket(Bucket="there")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = store.connect(uri, create=True)
    client.create_experiment("good", "s3://there/runs")
    client.create_experiment("lost", "s3://nowhere/runs")
    run_id = runs.start_run(uri, "good", "name", {}, tmp_path / "run")
    with pytest.raises(ConnectionError, match="NoSuchBucket"):
        runs.start_run(uri, "lost", "name", {}, tmp_path / "other-run")
    storage.stop()
    with pytest.raises(ConnectionError, match="cannot be used"):
        registry.register_version(base_folder(tmp_path), "base", run_id=run_id, uri=uri, tags={})
    assert [version.uri for version in registry.versions(uri)] == []
