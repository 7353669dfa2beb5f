"""Check of the MLflow store: whether it answers this user, and fits the installed MLflow."""

from __future__ import annotations

import ast
import base64
import os
import re
import socket
import sqlite3
import urllib.error
import urllib.request
from contextlib import closing
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from cluster.doctor.finding import Finding
from cluster.tracking.store import SQLITE, sqlite_file, sqlite_uri, tracking_uri
from odeformer.files.errors import reason
from odeformer.files.shown import masked, without_user

NAME = "MLflow"
ANSWER_SECONDS = 5.0
ELSEWHERE = "start it, or choose another store with --tracking-uri or MLFLOW_TRACKING_URI"


def look(given: str | None) -> list[Finding]:
    """Check the store that commands would use. The first run creates a SQLite file that does not exist."""
    uri, installed = tracking_uri(given), version("mlflow")
    if uri.startswith(SQLITE):
        return [_file(sqlite_file(uri), installed)]
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        return [_server(uri.rstrip("/"), installed)]
    shown = masked(uri)
    try:
        port = parts.port or {"postgresql": 5432, "mysql": 3306}[parts.scheme.partition("+")[0]]
        socket.create_connection((parts.hostname or "localhost", port), timeout=ANSWER_SECONDS).close()
    except (KeyError, ValueError):
        return [Finding(NAME, "failed", f"{shown} is not a store that can be checked", ELSEWHERE)]
    except OSError as error:
        return [Finding(NAME, "failed", f"nothing answers at {shown} ({reason(error)})", ELSEWHERE)]
    return [Finding(NAME, "ok", f"{installed}; {shown} answers")]


def _file(file: Path, installed: str) -> Finding:
    if not file.is_file():
        return Finding(NAME, "ok", f"{installed}; {file} will be created by the first run")
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=ANSWER_SECONDS)) as store:
            [(revision,)] = store.execute("SELECT version_num FROM alembic_version").fetchall()
    except (sqlite3.Error, ValueError) as error:
        remedy = "restore the file from a backup, or move it away to start with a new one"
        return Finding(NAME, "failed", f"{file} is not an MLflow store ({reason(error)})", remedy)
    if not os.access(file, os.W_OK):
        return Finding(NAME, "failed", f"{file} is not writable", f"chmod u+w {file}")
    known, latest = _revisions()
    if revision not in known:
        remedy = "pip install --upgrade mlflow, to the version that last used the store"
        return Finding(NAME, "failed", f"{file} was written by a newer MLflow than {installed}", remedy)
    if revision != latest:
        remedy = f"back it up, then: mlflow db upgrade {sqlite_uri(file)}"
        return Finding(NAME, "failed", f"{file} was written by an older MLflow than {installed}", remedy)
    return Finding(NAME, "ok", f"{installed}; {file}")


def _revisions() -> tuple[set[str], str]:
    """All schema revisions that the installed MLflow knows, and its latest.

    They are read from its files, as importing it takes seconds.
    """
    spec = find_spec("mlflow")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0]) / "store" / "db_migrations" / "versions"
    before: dict[str, str | None] = {}
    for file in folder.glob("*.py"):
        assignments = re.findall(
            r"^(revision|down_revision)\b.*= (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE
        )
        values = {name: ast.literal_eval(value) for name, value in assignments}
        if values:
            before[values["revision"]] = values["down_revision"]
    [latest] = before.keys() - set(before.values())
    return set(before), latest


def _server(address: str, installed: str) -> Finding:
    uri = masked(address)
    try:
        running = _get(address, "/version").strip()
        # This request needs permissions; the version is public.
        _get(address, "/api/2.0/mlflow/experiments/get?experiment_id=0")
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            who = os.environ.get("MLFLOW_TRACKING_USERNAME")
            remedy = "export MLFLOW_TRACKING_USERNAME=… MLFLOW_TRACKING_PASSWORD=…"
            return Finding(NAME, "failed", f"{uri} denies access to {who or 'an anonymous user'}", remedy)
        if error.code != 404 or "RESOURCE_DOES_NOT_EXIST" not in error.read().decode(errors="replace"):
            return Finding(NAME, "failed", f"{uri} is not an MLflow server (HTTP {error.code})", ELSEWHERE)
    except (OSError, ValueError) as error:
        return Finding(NAME, "failed", f"nothing answers at {uri} ({reason(error)})", ELSEWHERE)
    if running.split(".")[:2] != installed.split(".")[:2]:
        remedy = f"pip install 'mlflow=={running}' here, or {installed} there"
        return Finding(NAME, "failed", f"{installed} is installed, {uri} runs {running}", remedy)
    return Finding(NAME, "ok", f"{installed}; {uri} runs {running}")


def _get(address: str, path: str) -> str:
    address, in_address = without_user(address)
    request = urllib.request.Request(address + path)
    if "MLFLOW_TRACKING_USERNAME" in os.environ:
        pair = f"{os.environ['MLFLOW_TRACKING_USERNAME']}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}"
        request.add_header("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}")
    elif "MLFLOW_TRACKING_TOKEN" in os.environ:
        request.add_header("Authorization", f"Bearer {os.environ['MLFLOW_TRACKING_TOKEN']}")
    elif in_address:
        request.add_header("Authorization", f"Basic {base64.b64encode(in_address.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
        return str(answer.read().decode(errors="replace"))
