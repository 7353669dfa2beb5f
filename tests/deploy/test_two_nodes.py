"""The rehearsal cluster of deploy/local, up and down, with a run on both of its nodes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from ports import free_ports
from small_runs import small_settings
from waiting import DEADLINE, wait_for

from cluster.connection.jobs import JobServer
from cluster.doctor import ray_cluster

SCRIPT = Path(__file__).parents[2] / "deploy" / "local" / "two_nodes"


@pytest.fixture
def two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """The script, for a cluster of the test's own; what ``up`` has one source is in the environment."""
    # Unix sockets have a limit of 107 bytes.
    folder = Path(f"/tmp/rehearsal-{os.getpid()}")
    first = free_ports(5)[0]  # the script takes those after it too
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"ODEFORMER_REHEARSAL": str(folder), "REHEARSAL_PORT": str(first)}
    environment["PYTHONPATH"] = str(SCRIPT.parents[2])
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # as in an active .venv

    def script(verb: str) -> None:
        # Not through pipes: the nodes would hold them open.
        with (tmp_path / "output").open("w") as output:
            printed = {"stdout": output, "stderr": output}
            code = subprocess.run([SCRIPT, verb], env=environment, timeout=DEADLINE, **printed)
        assert code.returncode == 0, (tmp_path / "output").read_text()
        for line in (folder / "environment").read_text().splitlines() if verb == "up" else []:
            for setting in line.removeprefix("export ").split():
                monkeypatch.setenv(*setting.split("=", 1))

    try:
        yield script
    finally:
        script("down")
    assert not folder.exists()
    assert not [process for process in psutil.process_iter(["cmdline"]) if str(folder) in str(process.info)]


def wait_for_nodes(count: int) -> None:
    def found() -> str:
        return str(ray_cluster.look(os.environ["RAY_ADDRESS"])[0].found)

    wait_for(lambda: f" {count} nodes with {count} pretrain, {count} finetune" in found(), found)


def test_it_comes_up_with_two_nodes_and_goes_without_a_trace(two_nodes: Callable[[str], None]) -> None:
    two_nodes("up")
    wait_for_nodes(2)
    assert os.environ["MLFLOW_TRACKING_URI"].startswith("sqlite:///"), "a submitted run needs a store"


@pytest.mark.slow
def test_a_submitted_run_has_a_worker_on_each_node_and_outlives_one(
    two_nodes: Callable[[str], None], shards: Path, tmp_path: Path
) -> None:
    two_nodes("up")
    wait_for_nodes(2)
    settings = small_settings(
        shards,
        tmp_path,
        train={"steps": 400},
        checkpoint={"every": 5},
        cluster={"workers": 2, "min_workers": 1, "grow_after": 3600},
    )
    server = JobServer(os.environ["RAY_API_SERVER_ADDRESS"])
    name = server.submit(settings, "rehearsal")
    events = settings.run.dir / "events.jsonl"

    def ended() -> bool:
        return server.job(name).state not in ("pending", "running")

    wait_for(
        lambda: ended() or (events.exists() and '"checkpoint"' in events.read_text()),
        lambda: server.log(name),
    )
    assert not ended(), server.log(name)
    two_nodes("kill")
    wait_for(ended, lambda: server.log(name))
    job = server.job(name)
    assert job.state == "succeeded", server.log(name)
    assert "the number of workers changed (1 of 2)" in server.log(name)
