"""The doctor on real MLflow servers, without and with authentication."""

from __future__ import annotations

from pathlib import Path

import pytest
from stores import server

from cluster.doctor import machine, mlflow_store


@pytest.mark.slow
def test_servers_say_which_mlflow_they_run_and_whom_they_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    with server(tmp_path / "open") as there:
        [found] = mlflow_store.look(there.uri)
        assert found.state == "ok", found
        [clock] = machine.clock(there.uri)
        assert clock.found.endswith(there.uri)
    (tmp_path / "closed").mkdir()
    settings = tmp_path / "closed" / "auth.ini"
    settings.write_text(
        "[mlflow]\ndefault_permission = NO_PERMISSIONS\n"
        f"database_uri = sqlite:///{tmp_path}/closed/auth.db\n"
        "admin_username = admin\nadmin_password = a-long-password\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    environment = {"MLFLOW_AUTH_CONFIG_PATH": str(settings), "MLFLOW_FLASK_SERVER_SECRET_KEY": "x" * 32}
    with server(tmp_path / "closed", ["--app-name", "basic-auth"], environment) as asking:
        [refused] = mlflow_store.look(asking.uri)
        assert "MLFLOW_TRACKING_USERNAME" in refused.remedy
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a-long-password")
        [let_in] = mlflow_store.look(asking.uri)
        assert let_in.state == "ok", let_in
