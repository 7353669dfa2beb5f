"""A registry at an address of its own, and models whose names have three parts as in Unity Catalog."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from empty_store import empty_store
from stored_models import checkpoint_folder, register_model

from cluster import registry
from cluster.connection import credentials
from cluster.names import check_model_name, parse_reference
from cluster.registry import aliases
from cluster.tracking import store
from odeformer.files.digest import folder_digest

THREE = "main.language.book"


def test_runs_in_one_store_are_registered_in_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking, other = empty_store(tmp_path / "runs"), empty_store(tmp_path / "registry")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", other)
    made = checkpoint_folder(tmp_path)
    version = register_model(made, tracking, tmp_path, name=THREE)
    assert version.uri == f"models:/{THREE}/1"
    assert folder_digest(registry.fetch(f"models:/{THREE}@champion", tracking)) == folder_digest(made)
    [move] = aliases.read_log(THREE, tracking).moves
    assert (move.after, move.counts) == ("1", True)
    assert [each.name for each in registry.versions(tracking)] == [THREE], "without the log of its champion"
    assert "MLFLOW_REGISTRY_URI" in credentials.ours(), "workers are told"

    monkeypatch.delenv("MLFLOW_REGISTRY_URI")
    assert registry.versions(tracking) == []
    assert [each.name for each in registry.versions(other)] == [THREE]


@pytest.mark.parametrize(
    "name",
    ["a.b", "a.b.c.d", ".a.b", "a..b", "a.b.", "a.b.c/d", "a.b.c@d", "a.b.-c", "a.b.c__history", "a.b.…"],
)
def test_other_numbers_of_parts_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="model"):
        check_model_name(name)
    if not name.endswith("__history"):
        with pytest.raises(ValueError, match="expected models:/"):
            parse_reference(f"models:/{name}@champion")


@dataclass
class Catalog:
    """What a Unity Catalog holds of models, and what it was asked."""

    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def answer(self, verb: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """The answer to a request of ``/api/2.0/mlflow/unity-catalog``."""
        self.asked.append((f"{verb} {path}", body))
        known = self.models.get(body.get("name") or body.get("filter", "").removeprefix("name=").strip("'"))
        if path == "registered-models/search":
            return 200, {"registered_models": [{"name": name} for name in self.models]}
        if known is None:
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such model"}
        if path == "registered-models/get":
            listed = [{"alias": alias, "version": n} for alias, n in known["aliases"].items()]
            return 200, {"registered_model": {"name": body["name"], "aliases": listed}}
        if path == "registered-models/alias":
            if verb == "POST":
                known["aliases"][body["alias"]] = body["version"]
                return 200, {}
            return 200, {"model_version": known["versions"][known["aliases"][body["alias"]]]}
        if path == "model-versions/get":
            return 200, {"model_version": known["versions"][body["version"]]}
        if path == "model-versions/search":
            return 200, {"model_versions": list(known["versions"].values())}
        return 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": path}


@pytest.fixture
def catalog(monkeypatch: pytest.MonkeyPatch) -> Iterator[Catalog]:
    """A fake of Databricks' Unity Catalog on this machine."""
    content = Catalog()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            parts = urlsplit(self.path)
            body = dict(parse_qsl(parts.query))
            if length := int(self.headers.get("Content-Length") or 0):
                body |= json.loads(self.rfile.read(length))
            _, _, path = parts.path.partition("/unity-catalog/")
            if self.headers["Authorization"] == "Bearer a-token":
                status, answer = content.answer(self.command, path, body)
            else:  # the library looks whether the host says more of itself
                status, answer = 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": parts.path}
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815 - names of the library's

        def log_message(self, *_: Any) -> None: ...

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    monkeypatch.setenv("DATABRICKS_HOST", f"http://127.0.0.1:{web.server_address[1]}")
    monkeypatch.setenv("DATABRICKS_TOKEN", "a-token")
    yield content
    web.shutdown()
    web.server_close()


def test_a_model_of_a_catalog_is_found_by_its_three_parts(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking, made = empty_store(tmp_path), checkpoint_folder(tmp_path)
    version = register_model(made, tracking, tmp_path)  # the files are those of a run in the tracking store
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "databricks-uc")
    entry = {
        "name": THREE,
        "version": "1",
        "source": version.location,
        "run_id": version.run_id,
        "status": "READY",
        "creation_timestamp": 1000,
        "tags": [{"key": key, "value": value} for key, value in version.tags.items()],
        "aliases": [{"alias": "champion", "version": "1"}],
    }
    catalog.models[THREE] = {"aliases": {"champion": "1"}, "versions": {"1": entry}}

    found = registry.resolve(f"models:/{THREE}@champion", tracking)
    assert (found.uri, found.kind) == (f"models:/{THREE}/1", "checkpoint")
    assert folder_digest(registry.fetch(found.uri, tracking)) == folder_digest(made)
    assert [each.uri for each in registry.versions(tracking)] == [found.uri]
    with pytest.raises(ValueError, match=f"there are: models:/{THREE}"):
        registry.resolve("models:/main.language.other@champion", tracking)
    store.connect(tracking).set_registered_model_alias(THREE, "previous", "1")
    assert catalog.models[THREE]["aliases"] == {"champion": "1", "previous": "1"}
    assert {path for path, _ in catalog.asked} >= {
        "GET registered-models/alias",
        "GET model-versions/get",
        "POST registered-models/alias",
    }
