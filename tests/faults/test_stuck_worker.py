"""A worker that is stopped or waits forever is named and killed, and the group is restarted."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from faulty_runs import STEPS, pretraining, restarts, weights_of
from waiting import wait_for

from cluster.supervision import watchdog
from cluster.supervision.stacks import report, state_of
from cluster.supervision.watchdog import Watchdog, kill

BEATING = """
import sys, threading, time
from pathlib import Path
from types import SimpleNamespace
from cluster.runs import heartbeat
folder, rank, points = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
with heartbeat.beating(folder, rank, "node"):
    for point in range(points):
        heartbeat.passed(point // 10)
        time.sleep(0.05)
    print("passed", flush=True)
    lock = threading.Lock()
    lock.acquire()
    threading.Thread(target=lambda: (sys.stdin.read(), lock.release())).start()
    def wait_for_the_lock():
        lock.acquire()
    wait_for_the_lock()
"""


@contextmanager
def beating(folder: Path, *points: int) -> Iterator[list[subprocess.Popen[str]]]:
    """A process per rank that makes some progress and then waits."""
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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The watchdog's clock, which only the test advances."""
    now = [1000.0]
    monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def wait_for_signs(folder: Path, *ranks: int) -> None:
    """Wait for another heartbeat of each rank."""

    def beat(rank: int) -> float:
        return float(json.loads((folder / f"{rank}.json").read_text())["time"])

    seen = {rank: beat(rank) for rank in ranks}
    wait_for(lambda: all(beat(rank) > seen[rank] for rank in ranks))


def test_a_stopped_process_is_named_though_all_others_wait_for_it(tmp_path: Path, clock: list[float]) -> None:
    dog = Watchdog(tmp_path, seconds=10)
    with beating(tmp_path, 10**6, 10**6, 3) as processes:
        wait_for(lambda: len(dog.processes()) == 3 or any(process.poll() for process in processes))
        assert dog.look() is None
        processes[1].send_signal(signal.SIGSTOP)
        wait_for(lambda: psutil.Process(processes[1].pid).status() == psutil.STATUS_STOPPED)
        assert len(dog.processes()) == 3, "its last sign has been read"
        clock[0] += 6
        wait_for_signs(tmp_path, 0, 2)
        assert dog.look() is None
        clock[0] += 6
        wait_for_signs(tmp_path, 0, 2)
        found = dog.look()
        assert found is not None
        assert (found.process.rank, found.process.pid) == (1, processes[1].pid)
        assert "worker 1 is stuck: no heartbeat for" in found.reason
        state = state_of(found.process.pid, found.process.started, str(tmp_path / "1.stack"))
        seen = found.seen(state)
        assert "worker 1 is stopped (SIGSTOP, or a debugger): no heartbeat for" in seen.reason
        kill(found.process.pid, found.process.started + 1)  # another process, that got its number
        assert processes[1].poll() is None
        kill(found.process.pid, found.process.started)
        assert not psutil.pid_exists(found.process.pid)
        kill(found.process.pid, found.process.started)


def test_the_one_that_has_not_got_as_far_as_the_others_is_named(tmp_path: Path, clock: list[float]) -> None:
    dog = Watchdog(tmp_path, seconds=8)
    with beating(tmp_path, 25, 21, 25) as processes:
        assert [process.stdout.readline() for process in processes] == ["passed\n"] * 3
        wait_for_signs(tmp_path, 0, 1, 2)  # they have told of their last point
        assert dog.look() is None
        clock[0] += 7
        wait_for_signs(tmp_path, 0, 1, 2)
        assert dog.look() is None
        clock[0] += 7
        wait_for_signs(tmp_path, 0, 1, 2)
        found = dog.look()
        assert found is not None
        assert found.process.rank == 1
        assert "worker 1 is stuck after step 2: nobody has made progress for" in found.reason
        state = state_of(found.process.pid, found.process.started, str(tmp_path / "1.stack"))
        assert state is not None
        waits = found.seen(state).reason
        assert re.search(r"for \d+ s; it waits in <string>:\d+ \(wait_for_the_lock\)", waits), waits
        assert "heartbeat.py" in state.stacks, "the stacks of all threads"
        shown = report({1: state}, {1: found.process.thread})
        assert re.match(r"worker 1 waits in <string>:\d+ \(wait_for_the_lock\)\n\nworker 1:\n", shown)
        assert processes[1].poll() is None, "it goes on"
        processes[1].communicate("")
        assert [process.rank for process in dog.processes()] == [0, 2], "it ended by itself"
        dog.restart_clock()
        clock[0] += 7
        assert dog.look() is None


@pytest.mark.slow
def test_a_run_whose_worker_is_stopped_ends_with_the_same_weights(
    tmp_path: Path, shards: Path, untroubled: Path
) -> None:
    with pretraining(tmp_path, shards, "cluster.stuck_after=20", until=10) as command:
        command.wait_for_step(10)
        stopped = command.worker(1)
        stopped.suspend()
        command.let(STEPS)
        wait_for(lambda: restarts(command.run) or command.process.poll() is not None)
        assert not stopped.is_running()
        code, said, errors = command.end()
    assert code == 0, errors
    [restart] = restarts(command.run)
    said_for = re.match(
        r"worker 1 is stopped \(SIGSTOP, or a debugger\): no heartbeat for (\d+) s", restart["reason"]
    )
    assert said_for is not None, restart["reason"]
    assert int(said_for[1]) >= 20
    assert "worker 1 is stopped" in said
    stacks = (command.run / "stacks.txt").read_text()
    assert "(all_reduce), called by cluster/training/communication.py" in stacks.splitlines()[0], (
        "it waits for it"
    )
    assert stacks.splitlines()[1] == "worker 1 is stopped"
    assert command.steps()[-1] == STEPS
    assert weights_of(command.run) == weights_of(untroubled)
