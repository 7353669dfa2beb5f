"""A disk that is full for everybody: reports wait in memory, nobody is taken for dead."""

from __future__ import annotations

import errno
import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faulty_runs import pretraining
from small_runs import events
from waiting import wait_for

from cluster import pretrain
from cluster.runs import preemption
from cluster.runs.events import Event, EventLog
from cluster.supervision import watchdog
from launcher.cli import main as command_line

GATE = "TEST_GATE"
"""Environment variable with a folder on another disk, where the workers are held and say how far they are."""


def fill(disk: Path) -> Path:
    """Use up all room of a disk; returns the file to remove to have room again."""
    file = disk / "filler"
    with file.open("ab", buffering=0) as filler, pytest.raises(OSError, match="No space left"):
        while True:
            filler.write(bytes(2**16))
    return file


def test_events_wait_in_memory_until_there_is_room(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logs = [EventLog(small_disk), EventLog(small_disk)]

    def log(steps: range) -> None:
        for step in steps:
            logs[step % 2](Event.ROLLBACK, step, {"reason": "x" * 97, "to": 0})

    log(range(10))
    filler = fill(small_disk)
    with caplog.at_level(logging.WARNING):
        log(range(10, 400))
    assert len(caplog.records) == 2, "each says so once"
    assert f"No space left on device: '{small_disk}/events.jsonl'" in caplog.text
    filler.unlink()
    log(range(400, 402))
    assert sorted(event["step"] for event in events(small_disk, "rollback")) == list(range(402))


def test_workers_can_be_asked_to_stop(small_disk: Path) -> None:
    preemption.take_back(small_disk)
    fill(small_disk)
    preemption.ask(small_disk)
    assert preemption.is_asked(small_disk)
    preemption.take_back(small_disk)
    assert not preemption.is_asked(small_disk)


def test_a_worker_whose_heartbeats_cannot_be_written_is_not_taken_for_dead(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: now[0]))
    beat = {"rank": 0, "pid": 1, "thread": 1, "started": 0.0, "node": "", "host": "", "time": 0.0, "step": 3}
    rest = {"passed": 9, "transferring": False, "asked": False, "windows": []}
    (small_disk / "0.json").write_text(json.dumps(beat | rest))
    dog = watchdog.Watchdog(small_disk, seconds=10)
    assert dog.look() is None
    filler = fill(small_disk)
    for _ in range(5):
        now[0] += 8
        assert dog.look() is None
    assert str(dog.problem) == f"[Errno 28] No space left on device: '{small_disk}/.probe'"
    filler.unlink()
    now[0] += 8
    assert dog.look() is None, "it has its time from now on"
    now[0] += 11
    stuck = dog.look()
    assert stuck is not None
    assert "worker 0 is stuck: no heartbeat" in stuck.reason


def test_a_full_disk_is_no_mistake_of_the_user(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def app(**_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/disk/run/.lock")

    monkeypatch.setattr(command_line, "app", app)
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == 1, "systemd and Kubernetes start again what ended so"
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device: '/disk/run/.lock'\n"


def gated_worker(config: dict[str, Any]) -> None:
    """Worker function of a run that is held at each step that the gate does not allow."""
    from cluster.training import worker

    rate, gate = worker.learning_rate, Path(os.environ[GATE])

    def wait_and_rate(optim: Any, step: int, steps: int) -> float:
        (gate / "at").write_text(str(step))
        wait_for(lambda: step < int((gate / "until").read_text() or 0))
        return rate(optim, step, steps)

    worker.learning_rate = wait_and_rate
    pretrain.pretrain_worker(config)


def gated_command() -> None:
    """``odeformer`` with such workers."""
    pretrain.pretrain_worker = gated_worker
    command_line.main()


@pytest.mark.slow
def test_a_run_goes_on_when_there_is_room_again_and_ends_when_there_is_none(
    small_disk: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(GATE, str(tmp_path))

    def let(step: int) -> None:
        (tmp_path / "until").write_text(str(step))
        wait_for(lambda: (tmp_path / "at").exists() and (tmp_path / "at").read_text() == str(step))

    (tmp_path / "until").write_text("0")
    changes = ("train.steps=99", "checkpoint.every=5", "checkpoint.keep=2", "cluster.workers=1")
    with pretraining(small_disk, shards, *changes, program=gated_command) as command:

        def said() -> str:
            return command.process._printed[0].read_text()

        let(8)
        wait_for(lambda: [event["step"] for event in events(command.run, "checkpoint")] == [5])
        filler = fill(small_disk)
        let(16)  # the commit of step 10 has failed, as that of step 15 waited for it
        sign = "run.dir cannot be written for now; what the workers report waits in memory (["
        wait_for(lambda: said().count(sign) == 1)
        assert f"No space left on device: '{command.run}/heartbeats/" in said()
        filler.unlink()
        let(24)
        wait_for(lambda: events(command.run, "checkpoint")[-1]["step"] == 20, command.process.poll)
        assert command.steps()[:24] == list(range(1, 25)), "no report is lost, no step was made twice"
        failed = events(command.run, "checkpoint_failed")
        assert [event["step"] for event in failed] == [10, 15]
        assert all(f"{command.run}/checkpoints has 0.0 MiB free" in event["reason"] for event in failed)

        fill(small_disk)
        (tmp_path / "until").write_text("99")
        code, _, errors = command.end()
    assert code == 1
    assert "3 checkpoints in a row could not be written, the last at step" in errors
    assert f"{command.run}/checkpoints has 0.0 MiB free" in errors
    assert [path.name for path in sorted((command.run / "checkpoints").glob("step-*"))][
        -1
    ] == "step-000000020"
