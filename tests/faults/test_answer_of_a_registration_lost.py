"""A registration whose answer was lost, and which is asked for again, makes one version."""

from __future__ import annotations

import os
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from forked import SERVER, spawn
from stored_models import checkpoint_folder
from stores import losing_answers, server

from cluster import registry
from cluster.tracking import runs, store
from odeformer.files.digest import folder_digest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoint_folder(tmp_path)


def register_together(index: int, folder: Path, uri: str, meeting: Barrier) -> None:
    run_id = runs.start_run(uri, "experiment", "name", {}, folder.with_name(f"run-{index}"))
    for name in NAMES:
        meeting.wait()
        registry.register_version(folder, name, run_id=run_id, uri=uri, tags={}, alias="candidate")
    os._exit(0)


NAMES = ("one", "two", "three")


def test_two_processes_that_register_the_same_files_make_one_version(folder: Path, uri: str) -> None:
    spawn(register_together, args=(folder, uri, SERVER.Barrier(2)), nprocs=2)
    found = registry.versions(uri)
    assert [version.uri for version in found] == [f"models:/{name}/1" for name in sorted(NAMES)]
    assert {version.aliases for version in found} == {("candidate", "champion")}
    assert folder_digest(registry.fetch("models:/one@champion", uri)) == folder_digest(folder)


@pytest.mark.slow
def test_one_run_and_one_version(folder: Path, tmp_path: Path) -> None:
    with (
        server(tmp_path / "server") as remote,
        losing_answers(remote.port, b"/runs/create", b"/model-versions/create") as uri,
    ):
        with pytest.raises(ConnectionError):
            runs.start_run(uri, "experiment", "name", {}, tmp_path / "run")
        run_id = runs.start_run(uri, "experiment", "name", {}, tmp_path / "run")
        client = store.connect(remote.uri)
        experiment = client.get_experiment_by_name("experiment")
        assert [run.info.run_id for run in client.search_runs([experiment.experiment_id])] == [run_id]
        with pytest.raises(ConnectionError):
            registry.register_version(folder, "base", run_id=run_id, uri=uri, tags={}, alias="champion")
        version = registry.register_version(folder, "base", run_id=run_id, uri=uri, tags={}, alias="champion")
        assert version.uri == "models:/base/1"
        assert [found.uri for found in registry.versions(remote.uri)] == ["models:/base/1"]
        assert registry.fetch("models:/base@champion", remote.uri).is_dir()
