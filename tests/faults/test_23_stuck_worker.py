"""A worker that is stopped, or waits for ever: it is named, its process ended, the group started again."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from faulty_runs import STEPS, pretraining, restarts, weights_of

from cluster.supervision.watchdog import Stuck, Watchdog, _kill

BEATING = """
import sys, time
from pathlib import Path
from cluster.supervision import heartbeat
folder, rank, points = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
with heartbeat.beating(folder, rank, "node"):
    for point in range(points):
        heartbeat.passed(point // 10)
        time.sleep(0.05)
    print("passed", flush=True)
    sys.stdin.read()
"""


@contextmanager
def beating(folder: Path, *points: int) -> Iterator[list[subprocess.Popen[str]]]:
    """A process for each rank, which passes so many points and then waits."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BEATING, str(folder), str(rank), str(passing)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank, passing in enumerate(points)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def first_stuck(dog: Watchdog, timeout: float = 120) -> Stuck:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if found := dog.look():
            return found
        time.sleep(0.1)
    raise TimeoutError


def test_a_stopped_process_is_named_though_all_others_wait_for_it(tmp_path: Path) -> None:
    dog = Watchdog(tmp_path, seconds=10)
    with beating(tmp_path, 10**6, 10**6, 3) as processes:
        deadline = time.monotonic() + 120
        while len(dog.processes()) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert dog.look() is None
        processes[1].send_signal(signal.SIGSTOP)
        found = first_stuck(dog)
        assert (found.process.rank, found.process.pid) == (1, processes[1].pid)
        assert "worker 1 is stuck: no sign of life for" in found.reason
        _kill(found.process.pid, found.process.started + 1)  # another process, that got its number
        assert processes[1].poll() is None
        _kill(found.process.pid, found.process.started)
        assert not psutil.pid_exists(found.process.pid)
        _kill(found.process.pid, found.process.started)


def test_the_one_that_has_not_got_as_far_as_the_others_is_named(tmp_path: Path) -> None:
    dog = Watchdog(tmp_path, seconds=8)
    with beating(tmp_path, 25, 21, 25) as processes:
        assert [process.stdout.readline() for process in processes] == ["passed\n"] * 3
        found = first_stuck(dog)
        assert found.process.rank == 1
        assert "worker 1 is stuck after step 2: nobody has made progress for" in found.reason
        processes[1].communicate("")
        assert [process.rank for process in dog.processes()] == [0, 2], "it ended by itself"
        dog.restart_clock()
        assert dog.look() is None


@pytest.mark.slow
def test_a_run_whose_worker_is_stopped_ends_with_the_same_weights(
    tmp_path: Path, shards: Path, untroubled: Path
) -> None:
    with pretraining(tmp_path, shards, "cluster.stuck_after=20") as command:
        command.wait_for_step(10)
        stopped = command.worker(1)
        stopped.suspend()
        began = time.monotonic()
        while not restarts(command.run):
            assert time.monotonic() - began < 300
            assert command.process.poll() is None
            time.sleep(0.05)
        assert not stopped.is_running()
        code, said, errors = command.end()
    assert code == 0, errors
    [restart] = restarts(command.run)
    said_for = re.match(r"worker 1 is stuck: no sign of life for (\d+) s", restart["reason"])
    assert said_for is not None, restart["reason"]
    assert int(said_for[1]) >= 20
    assert "worker 1 is stuck" in said
    assert command.steps()[-1] == STEPS
    assert weights_of(command.run) == weights_of(untroubled)
