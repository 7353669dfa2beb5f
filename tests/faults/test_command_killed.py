"""The driver is killed: its processes end, its folder is removed, the same command resumes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from faulty_runs import STEPS, pretraining, weights_of
from waiting import DEADLINE, wait_until_gone

from cluster.connection import sessions

HOLD = """
from cluster.connection.sessions import session_folder
with session_folder() as folder:
    print(folder, flush=True)
    input()
"""


def holder() -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_the_folder_of_a_dead_driver_is_removed_and_that_of_a_living_one_is_not() -> None:
    (killed, left), (living, held) = holder(), holder()
    try:
        killed.kill()
        killed.wait()
        assert left.is_dir()
        with sessions.session_folder() as ours:
            assert not left.exists()
            assert held.is_dir()
            sessions.remove_left_over()  # as another thread of this process would
            assert ours.is_dir()
        assert not ours.exists()
        living.communicate("\n", timeout=DEADLINE)
        assert not held.exists()
    finally:
        living.kill()
        living.wait()


@pytest.mark.slow
def test_nothing_lingers_and_the_same_command_goes_on(tmp_path: Path, shards: Path, untroubled: Path) -> None:
    with pretraining(tmp_path, shards, until=10) as command:
        command.wait_for_step(10)
        family = command.family()
        [left] = {Path(name) for p in family for name in re.findall(r"/tmp/odf-\w+", " ".join(p.cmdline()))}
        assert left.is_dir()
        agents = [p for p in family if p.name().endswith("Agent")]
        command.process.send_signal(signal.SIGKILL)
        command.process.wait()
        wait_until_gone(p for p in family if p not in agents)  # what works, or talks to what works
    run_id = json.loads((command.run / "mlflow.json").read_text())["run_id"]
    with pretraining(tmp_path, shards) as command:
        code, _, errors = command.end()
    assert code == 0, errors
    assert json.loads((command.run / "mlflow.json").read_text())["run_id"] == run_id
    assert command.steps()[-1] == STEPS
    assert weights_of(command.run) == weights_of(untroubled)
    assert not left.exists()
    # Ray's agents of a node look for a while for the head that has died with the driver.
    wait_until_gone(agents)


def test_a_folder_that_rays_processes_made_again_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "ROOT", tmp_path)
    for name in ("odf-a1b2c3d4", "odf-nodes-a1b2c3d4"):  # the second is none of a private cluster
        (tmp_path / name / "session_2026" / "logs").mkdir(parents=True)
    (tmp_path / "odf-e5f6a7b8").mkdir()  # has just been made, and gets its lock
    sessions.remove_left_over()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["odf-e5f6a7b8", "odf-nodes-a1b2c3d4"]
