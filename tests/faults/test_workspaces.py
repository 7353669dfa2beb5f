"""Workspaces of an MLflow server, chosen by MLflow's own variable: runs and models are in one of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from stored_models import checkpoint_folder, register_model
from stores import server

from cluster import registry
from cluster.connection import credentials
from cluster.tracking import store


@pytest.mark.slow
def test_a_model_is_in_the_workspace_that_the_variable_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(tmp_path / "server", ["--enable-workspaces"]) as there:
        client = store.connect(there.uri)
        for name in ("alpha", "beta"):
            client.create_workspace(name)
        monkeypatch.setenv("MLFLOW_WORKSPACE", "alpha")
        version = register_model(checkpoint_folder(tmp_path), there.uri, tmp_path)
        assert registry.fetch(version.uri, there.uri).is_dir()
        assert credentials.ours()["MLFLOW_WORKSPACE"] == "alpha", "workers are told"
        monkeypatch.setenv("MLFLOW_WORKSPACE", "beta")
        assert registry.versions(there.uri) == []
        monkeypatch.setenv("MLFLOW_WORKSPACE", "alpha")
        assert [each.uri for each in registry.versions(there.uri)] == [version.uri]
