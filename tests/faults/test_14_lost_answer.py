"""A registration whose answer was lost, and which is asked for again, makes one version."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import tiny_shape
from stores import losing_answers, server

from cluster import registry, tracking
from odeformer import checkpoint
from odeformer.model import Odeformer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from data.tokenizer import train_tokenizer

    config = tiny_shape(vocabulary_size=300, context_length=16)
    train_tokenizer(["some text to train on"] * 10, 300).save(str(tmp_path / "tokenizer.json"))
    checkpoint.save(
        Odeformer(config).state_dict(), config, "euler", tmp_path / "tokenizer.json", tmp_path / "made"
    )
    return tmp_path / "made"


@pytest.mark.slow
def test_one_run_and_one_version(folder: Path, tmp_path: Path) -> None:
    with (
        server(tmp_path / "server") as store,
        losing_answers(store.port, b"/runs/create", b"/model-versions/create") as uri,
    ):
        with pytest.raises(ConnectionError):
            tracking.start_run(uri, "experiment", "name", {}, tmp_path / "run")
        run_id = tracking.start_run(uri, "experiment", "name", {}, tmp_path / "run")
        client = tracking.connect(store.uri)
        experiment = client.get_experiment_by_name("experiment")
        assert [run.info.run_id for run in client.search_runs([experiment.experiment_id])] == [run_id]
        with pytest.raises(ConnectionError):
            registry.register(folder, "base", run_id=run_id, uri=uri, tags={}, alias="champion")
        version = registry.register(folder, "base", run_id=run_id, uri=uri, tags={}, alias="champion")
        assert version.uri == "models:/base/1"
        assert [found.uri for found in registry.versions(store.uri)] == ["models:/base/1"]
        assert registry.fetch("models:/base@champion", store.uri).is_dir()
