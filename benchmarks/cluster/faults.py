"""Faults at random moments of a pretraining command, which is restarted as a supervisor would do it.

The soak (:mod:`benchmarks.cluster.soak`) and tests use this module; it does not depend on the run's settings.
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
"""The exit code of a preempted command, which can be resumed."""
LONGEST_DELAY = 0.3
"""The most seconds from a step to a fault, which is then within one of the next steps."""
LONGEST_SECONDS = 600.0
"""The seconds without a step or an exit after which the run counts as hanging."""


class Processes:
    """The command and its child processes."""

    def __init__(self, command: subprocess.Popen[str], run: Path) -> None:
        self.command, self._run = command, run

    def below(self) -> list[psutil.Process]:
        """All descendants of the command."""
        try:
            return psutil.Process(self.command.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def workers(self) -> list[psutil.Process]:
        """The workers of the current group, by rank."""
        attempts = [int(path.name) for path in (self._run / "heartbeats").glob("*")]
        folder = self._run / "heartbeats" / str(max(attempts, default=0))
        workers = []
        for path in sorted(folder.glob("*.json")):
            with suppress(OSError, ValueError, psutil.NoSuchProcess):
                beat = json.loads(path.read_text(encoding="utf-8"))
                process = psutil.Process(beat["pid"])
                if process.create_time() == beat["started"]:
                    workers.append(process)
        return workers

    def raylet(self) -> list[psutil.Process]:
        """Ray's server on this node, if it runs."""
        return [p for p in self.below() if p.name() == "raylet" and p.status() != psutil.STATUS_ZOMBIE]

    def are_all_there(self) -> bool:
        """Whether the run has recovered from the last fault."""
        with suppress(psutil.NoSuchProcess):
            return bool(self.raylet() and self.workers())
        return False


Fault = Callable[[Processes, random.Random], None]
FAULTS: dict[str, Fault] = {
    "kill_worker": lambda processes, chance: chance.choice(processes.workers()).kill(),
    "kill_command": lambda processes, chance: processes.command.kill(),
    # Ray's server on the node takes all of Ray's processes there with it.
    "kill_raylet": lambda processes, chance: processes.raylet()[0].kill(),
    # A suspended worker hangs.
    "stop_worker": lambda processes, chance: chance.choice(processes.workers()).suspend(),
    "preempt_worker": lambda processes, chance: chance.choice(processes.workers()).terminate(),
    "preempt_command": lambda processes, chance: processes.command.send_signal(signal.SIGTERM),
}
"""What each fault does; those of a worker choose a random rank."""
KILLS = ("kill_worker", "kill_command", "kill_raylet")


class Struck(NamedTuple):
    """A fault and the step before it."""

    step: int
    trouble: str
    in_commit: bool
    """Whether a checkpoint was being written."""


@dataclass
class History:
    """The faults of a run, and how its command exited each time."""

    faults: list[Struck] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)
    """The exit code of each start of the command."""
    said: str = ""
    """The output of the last start."""


def run_through(
    command: Sequence[str],
    folder: Path,
    run: Path,
    faults: Sequence[str],
    gap: tuple[int, int],
    chance: random.Random,
    look: Callable[[Processes, int], None] = lambda processes, step: None,
) -> History:
    """Run a command until it succeeds, with one fault after another.

    Args:
        command: the command ``odeformer pretrain …`` of each start.
        folder: its working directory.
        run: the run folder (``run.dir``).
        faults: names in :data:`FAULTS`, in this order; after the last one the run is left alone.
        gap: the least and the most optimizer steps between two faults.
        look: called repeatedly with the processes and the last step.

    Raises:
        RuntimeError: if the command fails without a fault, or hangs.
    """
    history, left = History(), list(faults)
    events, step = EventReader(run, from_end=False), 0
    while True:
        # Count the gap from the first step after each start, which takes long in itself.
        log = folder / f"command-{len(history.exit_codes)}.log"
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdout=output,
                stderr=output,
                text=True,
                start_new_session=True,
                encoding="utf-8",
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
                # A third of the faults wait for the next checkpoint, which takes only a moment to write.
                if left and made >= target and (writing or not in_commit) and processes.are_all_there():
                    time.sleep(0 if in_commit else chance.uniform(0, LONGEST_DELAY))
                    fault = left.pop(0)
                    history.faults.append(Struck(step, fault, in_commit))
                    with suppress(psutil.NoSuchProcess, IndexError):
                        FAULTS[fault](processes, chance)
                    was_broken, made, target = True, 0, chance.randint(*gap)
                    in_commit = chance.random() < 1 / 3
                if time.monotonic() - last_sign > LONGEST_SECONDS:
                    process.kill()
                    raise RuntimeError(f"no step for {LONGEST_SECONDS:.0f} s after step {step}")
                time.sleep(POLL_SECONDS)
        history.exit_codes.append(process.returncode)
        history.said = log.read_text(encoding="utf-8")
        if process.returncode == 0:
            return history
        if not was_broken and process.returncode != PREEMPTED:
            raise RuntimeError(f"the command exited with {process.returncode}:\n{history.said[-2000:]}")


def odeformer() -> str:
    """The path of this environment's ``odeformer`` command."""
    return str(Path(sys.executable).parent / "odeformer")
