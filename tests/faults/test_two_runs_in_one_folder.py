"""Two runs in one folder: the second is refused until the first has ended or died."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from waiting import DEADLINE

from cluster.runs import lock

HOLD = """
import sys
from pathlib import Path
from cluster.runs import lock
with lock.held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_exactly_one_of_many_wins_and_its_death_frees_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    processes = [holder(folder) for _ in range(4)]
    try:
        *losers, winner = sorted(processes, key=lambda process: process.stdout.readline() == "held\n")
        for loser in losers:
            assert loser.wait(timeout=DEADLINE) == 1
            message = loser.stderr.read().splitlines()[-1]
            assert f"run.dir {folder} is in use by process {winner.pid} on " in message
        with pytest.raises(BlockingIOError, match=f"process {winner.pid} on"), lock.held(folder):
            pass
        winner.kill()
        winner.wait()
        with lock.held(folder):
            pass
    finally:
        for process in processes:
            process.kill()
            process.wait()
