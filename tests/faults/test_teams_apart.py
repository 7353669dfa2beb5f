"""One MLflow server with basic-auth for several teams: each moves and overwrites only what is its own."""

from __future__ import annotations

import importlib.util
import secrets
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from stored_models import checkpoint_folder, register_adapter, register_model
from stores import server

from cluster import registry
from cluster.registry import aliases
from cluster.registry.ownership import Owner, claim
from cluster.tags import DIGEST
from cluster.tracking import store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("flask_wtf") is None,
        reason="MLflow's basic-auth needs Flask-WTF: pip install 'mlflow[auth]'",
    ),
]
PASSWORD = "a-long-enough-password"


@pytest.fixture
def as_user(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Whoever this process is from then on."""

    def become(name: str | None) -> None:
        for variable, value in (("USERNAME", name), ("PASSWORD", PASSWORD)):
            if name is None:
                monkeypatch.delenv(f"MLFLOW_TRACKING_{variable}", raising=False)
            else:
                monkeypatch.setenv(f"MLFLOW_TRACKING_{variable}", value)

    return become


def request(uri: str, path: str, user: str, method: str, body: bytes | None = None) -> int:
    """The status of a request that no client of MLflow's would send."""
    login = b64encode(f"{user}:{PASSWORD}".encode()).decode()
    headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
    try:
        return urllib.request.urlopen(
            urllib.request.Request(f"{uri}{path}", body, headers, method=method), timeout=30
        ).status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_team_can_use_a_model_of_another_and_change_nothing_of_it(
    tmp_path: Path, as_user: Callable[[str | None], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # every password is hashed, slowly on purpose
    (tmp_path / "server").mkdir()
    (tmp_path / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = READ\nadmin_username = admin\n"
        f"database_uri = sqlite:///{tmp_path}/server/auth.db\n"
        "auth_cache_ttl_seconds = 60\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    environment = {
        "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
    }
    with server(tmp_path / "server", ["--app-name", "basic-auth"], environment) as remote:
        from mlflow.server.auth.client import AuthServiceClient

        as_user("admin")
        for name in ("ana", "bo"):
            AuthServiceClient(remote.uri).create_user(name, PASSWORD)
        as_user("ana")
        old, new = (
            register_model(checkpoint_folder(tmp_path, seed), remote.uri, tmp_path / "ana", "a-model")
            for seed in range(2)
        )
        weights = registry.fetch(new.uri, remote.uri) / "model.safetensors"
        before = weights.read_bytes()

        as_user("bo")
        # Use it, and make something of it.
        assert registry.load("models:/a-model@champion", remote.uri).versions[0].uri == new.uri
        adapter = register_adapter(new, remote.uri, tmp_path / "bo", "b-adapter")
        assert adapter.aliases == ("candidate", "champion")
        # What is another account's is found before a task is trained, the log of a model included.
        store.connect(remote.uri).create_registered_model("base--docs--bos")
        as_user("ana")
        for owned in ("base--docs--bos", "base--docs--new"):
            if owned == "base--docs--new":
                as_user("bo")
                store.connect(remote.uri).create_registered_model(f"{owned}.history")
                as_user("ana")
            with pytest.raises(store.RefusedError, match="Permission denied"):
                claim(owned, Owner("docs", owned.rpartition("-")[2]), remote.uri)
        as_user("bo")
        # Move its alias, in any way there is.
        with pytest.raises(store.RefusedError, match="Permission denied"):
            aliases.move(old, remote.uri, why="mine is better")
        with pytest.raises(store.RefusedError, match="Permission denied"):
            aliases.rollback("a-model", remote.uri)
        with pytest.raises(store.RefusedError, match="Permission denied"):
            register_model(checkpoint_folder(tmp_path, 2), remote.uri, tmp_path / "bo", "a-model")
        client = store.connect(remote.uri)
        attempts: dict[str, Callable[[], object]] = {
            "set the alias": lambda: client.set_registered_model_alias("a-model", "champion", "1"),
            "take the alias away": lambda: client.delete_registered_model_alias("a-model", "champion"),
            "write its history": lambda: client.create_model_version("a-model.history", old.location),
            "erase its history": lambda: client.delete_model_version("a-model.history", "1"),
            "give it another digest": lambda: client.set_model_version_tag("a-model", "2", DIGEST, "0" * 64),
            "delete it": lambda: client.delete_registered_model("a-model"),
            "overwrite its files": lambda: client.log_artifact(
                new.run_id, str(tmp_path / "auth.ini"), new.location.rpartition("/artifacts/")[2]
            ),
        }
        for what, attempt in attempts.items():
            with store.patience(), pytest.raises(Exception, match=r"403|Permission denied") as caught:
                attempt()
            assert "Permission denied" in str(caught.value), what
        # Past the client, at the artifacts themselves.
        place = new.location.removeprefix("mlflow-artifacts:/").lstrip("/")
        file = f"/api/2.0/mlflow-artifacts/artifacts/{place}/artifacts/model/model.safetensors"
        assert request(remote.uri, file, "bo", "GET") == 200
        for path in (
            file,
            file.replace("/artifacts/model/", "/artifacts/x/../model/"),
            file.replace("/", "//", 4),
        ):
            assert request(remote.uri, path, "bo", "PUT", b"poison") in (400, 403, 404), path
            assert request(remote.uri, path, "bo", "DELETE") in (400, 403, 404, 405), path
        upload = file.replace("/artifacts/", "/mpu/create/", 1)
        body = b'{"path": "model.safetensors", "num_parts": 1}'
        assert request(remote.uri, upload, "bo", "POST", body) == 403

        as_user(None)
        with pytest.raises(store.RefusedError, match="not authenticated"):
            registry.resolve("models:/a-model@champion", remote.uri)
        as_user("ana")
        assert registry.resolve("models:/a-model@champion", remote.uri).version == new.version
        assert (registry.fetch(new.uri, remote.uri) / "model.safetensors").read_bytes() == before
        moves = aliases.read_log("a-model", remote.uri).moves
        assert [(move.after, move.who.split("@")[0]) for move in moves] == [("1", "ana"), ("2", "ana")]
        assert aliases.rollback("a-model", remote.uri).version == old.version
