"""A pretraining command that is broken at random moments, and started again as a supervisor would do it.

Used by the soak (`benchmarks.soak`) and by tests; nothing here knows what the run is.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil

from cluster.runs.events import EventReader

POLL_SECONDS = 0.02
PREEMPTED = 75
"""The exit code of a command that was asked to end, and can go on."""
LONGEST_DELAY = 0.3
"""So long at most after a step a trouble comes: within the next one, or some further."""
LONGEST_SECONDS = 600.0
"""Without a step or the end of the command for so long, the run hangs."""


class Processes:
    """The command, what it has started, and where its workers are."""

    def __init__(self, command: subprocess.Popen[str], run: Path) -> None:
        self.command, self._run = command, run

    def below(self) -> list[psutil.Process]:
        """All processes below the command."""
        try:
            return psutil.Process(self.command.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def workers(self) -> list[psutil.Process]:
        """The group that is at work, by rank."""
        attempts = [int(path.name) for path in (self._run / "heartbeats").glob("*")]
        folder = self._run / "heartbeats" / str(max(attempts, default=0))
        found = []
        for path in sorted(folder.glob("*.json")):
            with suppress(OSError, ValueError, psutil.NoSuchProcess):
                beat = json.loads(path.read_text())
                process = psutil.Process(beat["pid"])
                if process.create_time() == beat["started"]:
                    found.append(process)
        return found

    def raylet(self) -> list[psutil.Process]:
        """Ray's server on this node: one, or none any more."""
        return [p for p in self.below() if p.name() == "raylet" and p.status() != psutil.STATUS_ZOMBIE]

    def are_all_there(self) -> bool:
        """Whether nothing of the last trouble is still going on."""
        with suppress(psutil.NoSuchProcess):
            return bool(self.raylet() and self.workers())
        return False


def kill_worker(processes: Processes, chance: random.Random) -> None:
    """``kill -9`` of a random rank."""
    chance.choice(processes.workers()).kill()


def kill_command(processes: Processes, chance: random.Random) -> None:
    """``kill -9`` of the command."""
    processes.command.kill()


def kill_raylet(processes: Processes, chance: random.Random) -> None:
    """``kill -9`` of Ray's server on the node: all that Ray has there goes with it."""
    processes.raylet()[0].kill()


def stop_worker(processes: Processes, chance: random.Random) -> None:
    """SIGSTOP to a random rank: it is there, and does nothing."""
    chance.choice(processes.workers()).suspend()


def preempt_worker(processes: Processes, chance: random.Random) -> None:
    """SIGTERM to a random rank."""
    chance.choice(processes.workers()).terminate()


def preempt_command(processes: Processes, chance: random.Random) -> None:
    """SIGTERM to the command."""
    processes.command.send_signal(signal.SIGTERM)


Trouble = Callable[[Processes, random.Random], None]
KILLS: tuple[Trouble, ...] = (kill_worker, kill_command, kill_raylet)
ALL: tuple[Trouble, ...] = (*KILLS, stop_worker, preempt_worker, preempt_command)


class Struck(NamedTuple):
    """A trouble, and the step it came after."""

    step: int
    trouble: str
    in_commit: bool
    """It came while a checkpoint was being written."""


@dataclass
class History:
    """What happened to a run until its command ended by itself."""

    troubles: list[Struck] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)
    """Of the command, each time it ended."""
    said: str = ""
    """By the command at its last end."""


def run_through(
    command: Sequence[str],
    folder: Path,
    run: Path,
    troubles: Sequence[Trouble],
    gap: tuple[int, int],
    chance: random.Random,
    look: Callable[[Processes, int], None] = lambda processes, step: None,
) -> History:
    """Run a command until it has ended well, with one trouble after another, all in turn.

    Args:
        command: ``odeformer pretrain …``; the same each time.
        folder: where it runs.
        run: its ``run.dir``.
        troubles: in this order; when they are through, the run is left alone.
        gap: between how many and how many optimizer steps lie between two of them, made steps only.
        look: called again and again with the processes and the last step.

    Raises:
        RuntimeError: when the command failed without having been broken, or hangs.
    """
    history, left = History(), list(troubles)
    events, step = EventReader(run, from_end=False), 0
    while True:
        # A new start is a trouble's worth of patience in itself: count from what is made after it.
        log = folder / f"command-{len(history.exit_codes)}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                command, cwd=folder, stdout=output, stderr=output, text=True, start_new_session=True
            )
            processes = Processes(process, run)
            was_broken, made, target = False, 0, chance.randint(*gap)
            in_commit = chance.random() < 1 / 3
            last_sign = time.monotonic()
            while process.poll() is None:
                for event in events.new():
                    if event["event"] == "step":
                        step, made, last_sign = event["step"], made + 1, time.monotonic()
                look(processes, step)
                writing = any((run / "checkpoints").glob(".step-*.incomplete"))
                # A third of them wait for the next checkpoint; it is there for a moment only.
                if left and made >= target and (writing or not in_commit) and processes.are_all_there():
                    time.sleep(0 if in_commit else chance.uniform(0, LONGEST_DELAY))
                    trouble = left.pop(0)
                    history.troubles.append(Struck(step, trouble.__name__, in_commit))
                    with suppress(psutil.NoSuchProcess, IndexError):
                        trouble(processes, chance)
                    was_broken, made, target = True, 0, chance.randint(*gap)
                    in_commit = chance.random() < 1 / 3
                if time.monotonic() - last_sign > LONGEST_SECONDS:
                    process.kill()
                    raise RuntimeError(f"nothing has happened for {LONGEST_SECONDS:.0f} s after step {step}")
                time.sleep(POLL_SECONDS)
        history.exit_codes.append(process.returncode)
        history.said = log.read_text()
        if process.returncode == 0:
            return history
        if not was_broken and process.returncode != PREEMPTED:
            raise RuntimeError(f"the command ended with {process.returncode}:\n{history.said[-2000:]}")


def odeformer() -> str:
    """The command line of this environment."""
    return str(Path(sys.executable).parent / "odeformer")
