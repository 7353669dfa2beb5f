"""The doctor's findings on healthy machines, full disks and stale locks."""

from __future__ import annotations

import email.utils
import fcntl
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import forked
import pytest

from cluster.doctor import Finding, locks, machine, mlflow_store, ray_cluster
from cluster.runs.lock import FILE_NAME, held

ODEFORMER = Path(sys.executable).parent / "odeformer"


def only(findings: list[Finding]) -> Finding:
    [finding] = findings
    return finding


def test_the_command_tells_everything_and_fails_with_a_remedy(tmp_path: Path) -> None:
    lock = tmp_path / "extensions" / "py311_cpu" / "async_io" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    # A home of its own: Ray writes a token that others can read into the home of whoever starts it bare.
    environment = clean | {"HOME": str(tmp_path), "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}

    def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
        return forked.run("doctor", *arguments, cwd=tmp_path, env=environment)

    failed = doctor("--json")
    assert (failed.returncode, failed.stderr) == (1, "")
    found: list[dict[str, Any]] = json.loads(failed.stdout)
    names = [finding["name"] for finding in found]
    assert list(dict.fromkeys(names)) == [
        *("Python", "torch", "DeepSpeed", "compilers", "Ray", "Ray's token", "MLflow", "disk"),
        *("shared memory", "clock", "extension locks", "run locks", "session folders"),
    ]
    wrong = [finding for finding in found if finding["state"] == "failed"]
    assert [finding["name"] for finding in wrong] == ["extension locks"]
    assert wrong[0]["remedy"] == f"rm {lock}"

    lock.unlink()
    well = doctor()
    assert well.returncode == 0, well.stdout
    assert "\x1b" not in well.stdout, "no colors into a pipe"
    assert all(line.split()[0] in ("ok", "note") for line in well.stdout.splitlines())


def test_an_extension_lock_that_somebody_holds_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils.file_baton import FileBaton

    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert only(locks.of_extensions()).state == "ok"
    (tmp_path / "async_io").mkdir()
    baton = FileBaton(str(tmp_path / "async_io" / "lock"))
    assert baton.try_acquire()
    assert only(locks.of_extensions()).state == "note"
    os.close(baton.fd)  # as when its process is killed
    assert only(locks.of_extensions()).state == "failed"


def test_run_locks_name_their_holders(tmp_path: Path) -> None:
    with held(tmp_path / "alive"):
        finding = only(locks.of_runs(tmp_path))
        assert finding.state == "note"
        assert f"process {os.getpid()} on {socket.gethostname()}" in finding.found
    assert only(locks.of_runs(tmp_path)).state == "ok", "the file alone is no lock"
    # A child has inherited the lock of a command that has ended.
    ended = subprocess.Popen(["true"])
    ended.wait()
    with (tmp_path / "alive" / FILE_NAME).open("w") as file:
        file.write(f"process {ended.pid} on {socket.gethostname()}\n")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        finding = only(locks.of_runs(tmp_path))
    assert (finding.state, finding.remedy) == ("failed", f"kill {os.getpid()}")


def test_session_folders_in_use_are_told_from_those_left_over(tmp_path: Path) -> None:
    for name in ("odf-used", "odf-dead", "odf-empty", "odf-new", "else"):
        (tmp_path / name).mkdir()
    (tmp_path / "odf-dead" / "driver.lock").touch()
    long_ago = time.time() - 3600
    with (tmp_path / "odf-used" / "driver.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for name in ("odf-used", "odf-dead", "odf-empty"):
            os.utime(tmp_path / name, (long_ago, long_ago))
        findings = {finding.found.split()[0]: finding for finding in locks.of_sessions(tmp_path)}
    assert set(findings) == {"1", str(tmp_path / "odf-dead"), str(tmp_path / "odf-empty")}
    assert findings[str(tmp_path / "odf-empty")].remedy == f"rm -r {tmp_path / 'odf-empty'}"


def test_a_machine_without_room_is_told(tmp_path: Path) -> None:
    assert only(machine.shared_memory(tmp_path / "nowhere")).state == "failed"
    assert only(machine.shared_memory(tmp_path)).state == "ok"
    assert [finding.state for finding in machine.disk((tmp_path, tmp_path))] == ["ok"], "a disk is told once"
    full = machine.disk((Path("/proc"),))
    assert full[0].state == "failed"


def test_a_clock_that_is_off_is_told() -> None:
    class Late(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(401)  # a refusal tells the time as well
            self.send_header("Date", email.utils.formatdate(time.time() - 100, usegmt=True))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Late) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        finding = only(machine.clock(None, f"http://127.0.0.1:{server.server_port}"))
        server.shutdown()
    assert finding.state == "failed"
    assert 98 <= int(finding.found.split(", ")[1].split()[0]) <= 130
    assert only(machine.clock("127.0.0.1:6379", None)).state == "ok"


def test_a_store_of_another_mlflow_is_told(uri: str, tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    assert only(mlflow_store.look(uri)).state == "ok"
    for revision, remedy in (
        ("451aebb31d03", f"mlflow db upgrade sqlite:///{file}"),  # MLflow 0.8's first
        ("ffffffffffff", "pip install --upgrade mlflow"),
    ):
        with closing(sqlite3.connect(file)) as store:
            store.execute("UPDATE alembic_version SET version_num = ?", [revision])
            store.commit()
        finding = only(mlflow_store.look(uri))
        assert finding.state == "failed"
        assert remedy in finding.remedy
    file.write_bytes(b"no store at all" * 100)
    assert "not an MLflow store" in only(mlflow_store.look(uri)).found
    file.unlink()
    assert only(mlflow_store.look(uri)).state == "ok", "the first run makes one"
    assert not file.exists()


def test_servers_that_are_not_there_are_told(unused_tcp_port: int) -> None:
    port = unused_tcp_port
    for finding in (
        only(mlflow_store.look(f"http://127.0.0.1:{port}")),
        only(mlflow_store.look(f"http://user:secret@127.0.0.1:{port}")),
        only(mlflow_store.look(f"postgresql://user:secret@127.0.0.1:{port}/mlflow")),
        only(ray_cluster.look(f"127.0.0.1:{port}")),
        only(ray_cluster.look(f"http://127.0.0.1:{port}")),
        only(ray_cluster.look("host:port")),
    ):
        assert finding.state == "failed"
        assert "secret" not in finding.found
        assert "nonnumeric" not in finding.found, "the host is what comes behind the @"


@pytest.fixture
def unused_tcp_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def test_a_token_that_others_can_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "auth_token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    assert only(ray_cluster.token()).state == "ok"
    file.write_text("x" * 64)
    file.chmod(0o644)
    assert f"chmod 600 {file}" in only(ray_cluster.token()).remedy
    file.chmod(0o600)
    assert only(ray_cluster.token()).state == "ok"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "y" * 64)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert only(ray_cluster.token()).remedy == "export RAY_AUTH_MODE=token"


def test_nothing_of_what_is_looked_at_is_changed(tmp_path: Path, uri: str) -> None:
    shutil.copyfile(tmp_path / "mlflow.db", tmp_path / "before.db")
    mlflow_store.look(uri)
    assert (tmp_path / "mlflow.db").read_bytes() == (tmp_path / "before.db").read_bytes()
