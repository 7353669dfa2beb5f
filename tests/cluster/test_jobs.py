"""Jobs on a real head node with token authentication, through the command line."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from small_runs import small_settings

from cluster import jobs
from cluster.settings import PretrainSettings

HEAD = """
import sys
from ray.scripts.scripts import main
sys.exit(main())
"""
ODEFORMER = "from launcher.cli import main; main()"


@dataclass
class Head:
    """A head node of its own, and the command line pointed at it."""

    address: str
    environment: dict[str, str]
    folder: Path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """``odeformer`` with these arguments."""
        command = [sys.executable, "-c", ODEFORMER, *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=self.environment)

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=180)
        return process.returncode, out, err

    def job(self, name: str) -> dict[str, Any]:
        """What ``jobs show --json`` says."""
        code, out, err = self("jobs", "show", name, "--json")
        assert code == 0, err
        return dict(json.loads(out))

    def wait(self, name: str, found: Callable[[dict[str, Any]], bool], seconds: float) -> dict[str, Any]:
        """The job, as soon as it is like that."""
        deadline = time.monotonic() + seconds
        while not found(job := self.job(name)):
            assert time.monotonic() < deadline, job
            time.sleep(0.5)
        return job


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listening.getsockname()[1] for listening in sockets]
    for listening in sockets:
        listening.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """Two CPUs and two places for pretraining workers, stopped by the ids of its processes."""
    folder = Path(tempfile.mkdtemp(prefix="odf-head-", dir="/tmp"))
    gcs, dashboard, agent, client = _free_ports(4)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # where the job finds odeformer
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", HEAD, "start", "--head", "--block"]
    options = {
        "port": gcs,
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": agent,
        "ray-client-server-port": client,
        "temp-dir": folder,
        "node-ip-address": "127.0.0.1",
        "num-cpus": 2,
        "resources": json.dumps({"pretrain": 2}),
        "object-store-memory": 128 * 2**20,
    }
    command += [f"--{name}={value}" for name, value in options.items()]
    with (folder / "head.log").open("w") as log:
        node = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True
        )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        deadline = time.monotonic() + 90
        while not _answers(address):
            assert node.poll() is None, (folder / "head.log").read_text()
            assert time.monotonic() < deadline, (folder / "head.log").read_text()
            time.sleep(0.3)
        yield Head(address, environment | {"RAY_API_SERVER_ADDRESS": address}, folder)
    finally:
        _stop(node.pid, folder)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=5).close()
    except urllib.error.HTTPError as error:
        return error.code == 401  # it wants a token
    except OSError:
        return False
    return True


def _stop(pid: int, folder: Path) -> None:
    """The node's processes: its children, and those in other sessions that name its folder."""
    processes = psutil.Process(pid).children(recursive=True) if psutil.pid_exists(pid) else []
    for process in [*psutil.process_iter()]:
        with suppress(psutil.Error):
            if process.pid == pid or any(str(folder) in argument for argument in process.cmdline()):
                processes.append(process)
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


@pytest.fixture
def config(shards: Path, tmp_path: Path) -> Callable[..., str]:
    """A factory of files of small settings: ``config("name", section={key: value})``."""

    def make(name: str, **sections: dict[str, Any]) -> str:
        sections.setdefault("run", {"dir": tmp_path / name})
        settings: PretrainSettings = small_settings(shards, tmp_path, **sections)
        path = tmp_path / f"{name}.yaml"
        path.write_text(settings.model_dump_json())  # JSON is YAML
        return str(path)

    return make


def test_a_job_that_fails_says_why_and_its_name_is_taken(
    head: Head, config: Callable[..., str], tmp_path: Path
) -> None:
    doomed = config("doomed")
    missing = f"data.shards={tmp_path}/nowhere"
    code, out, err = head("submit", "pretrain", doomed, "--set", missing)
    assert code == 0, err
    assert out.startswith("submitted: doomed;")
    assert err == ""
    job = head.wait("doomed", lambda job: job["state"] not in ("pending", "running"), 60)
    assert job["state"] == "failed"
    assert job["cause"].startswith("exit code 2: ")
    assert f"{tmp_path}/nowhere" in job["cause"]
    assert any(f"{tmp_path}/nowhere" in line for line in job["last_lines"])
    code, out, err = head("submit", "pretrain", doomed)
    assert (code, out) == (2, "")
    assert err.startswith("error: there is a job 'doomed'")
    assert err.count("\n") == 1


def test_a_wrong_token_and_other_peoples_jobs(head: Head) -> None:
    stranger = Head(head.address, head.environment | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}, head.folder)
    code, out, err = stranger("jobs", "list")
    assert (code, out) == (2, "")
    assert "wants another token" in err
    assert err.count("\n") == 1
    code, out, err = head("jobs", "stop", "nobodys")
    assert (code, out) == (2, "")
    assert "no pretraining job 'nobodys'" in err


@pytest.mark.slow
def test_a_job_waits_for_its_place_and_runs_to_the_end_when_another_is_stopped(
    head: Head, config: Callable[..., str], tmp_path: Path
) -> None:
    code, _, err = head("submit", "pretrain", config("long"), "--set", "train.steps=1000000")
    assert code == 0, err
    events = tmp_path / "long" / "events.jsonl"
    deadline = time.monotonic() + 120
    while not (events.is_file() and '"checkpoint"' in events.read_text()):
        assert time.monotonic() < deadline, head("jobs", "logs", "long")
        time.sleep(0.5)
    assert head.job("long")["state"] == "running"

    code, _, err = head("submit", "pretrain", config("short"), "--name", "second", "--set", "train.steps=6")
    assert code == 0, err
    waiting = head.wait("second", lambda job: "pretrain" in (job["lacks"] or ""), 120)
    assert waiting["state"] == "pending"
    assert waiting["lacks"] == "CPU: 2 wanted, 0 free of 2; pretrain: 2 wanted, 0 free of 2"

    follower = head.start("jobs", "logs", "second", "--follow")
    code, out, err = head("jobs", "stop", "long")
    assert code == 0, err
    assert out.startswith("stopped: long;")
    assert '"interrupted"' in events.read_text(), "it ended as by Ctrl-C"
    out, err = follower.communicate(timeout=180)
    assert follower.returncode == 0, err
    assert f"weights: {tmp_path}/short/final" in out
    assert (tmp_path / "short" / "final" / "config.json").is_file()

    found = {job["name"]: job for job in json.loads(head("jobs", "list", "--json")[1])}
    assert found["long"]["state"] == "stopped"
    assert found["second"]["state"] == "succeeded"
    assert list(found).index("second") < list(found).index("long"), "the latest first"


def test_where_nobody_answers_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "ANSWER_SECONDS", 1.0)
    (port,) = _free_ports(1)
    with pytest.raises(ConnectionError, match="no Ray cluster answers at"):
        jobs.JobServer(f"http://127.0.0.1:{port}")
    started = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ConnectionError, match="timed out"):
        jobs.JobServer(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert time.monotonic() - started < 10
    with pytest.raises(ValueError, match="expected that of a cluster's dashboard"):
        jobs.JobServer("127.0.0.1:6379")


def test_what_a_job_lacks_names_only_what_is_short() -> None:
    wanted, there = {"CPU": 4.0, "GPU": 4.0, "pretrain": 4.0}, {"CPU": 64.0, "pretrain": 4.0}
    lacks = jobs._lacking(wanted, {"CPU": 2.0, "pretrain": 2.0}, there)
    assert lacks == "GPU: 4 wanted, 0 free of 0; pretrain: 4 wanted, 2 free of 4"
