"""Faults at random moments of a pretraining command, which is restarted as a supervisor would do it.

The soak (:mod:`benchmarks.cluster.soak`), chaos (:mod:`benchmarks.cluster.chaos`) and tests use this module;
it does not depend on the run's settings.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
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


class Program:
    """A command that can be started again when it has ended, and the processes below it.

    Args:
        name: the name of its logs, of which each start has one in ``folder``, its working directory.
        run: the run folder (``run.dir``) of a command ``odeformer pretrain``.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        run: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.command, self.run = name, command, run
        self._folder, self._environment = folder, environment
        self.exits: list[int] = []
        """The exit code of each start that has ended."""
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the command as a process group of its own."""
        self._log = self._folder / f"{self.name}-{len(self.exits)}.log"
        with self._log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                encoding="utf-8",
            )

    def has_ended(self) -> bool:
        """Whether it has ended since the last call; its exit code is noted."""
        if self.process is None or self.process.poll() is None:
            return False
        self.exits.append(self.process.returncode)
        self.process = None
        return True

    def said(self) -> str:
        """The output of its last start."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def family(self) -> list[psutil.Process]:
        """The process of the command and all below it."""
        with suppress(psutil.NoSuchProcess):
            if self.process is not None:
                process = psutil.Process(self.process.pid)
                return [process, *process.children(recursive=True)]
        return []

    def workers(self) -> list[psutil.Process]:
        """The workers of the current group, by rank."""
        attempts = [int(path.name) for path in (self.run / "heartbeats").glob("*")]
        folder = self.run / "heartbeats" / str(max(attempts, default=0))
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
        return [p for p in self.family() if p.name() == "raylet" and p.status() != psutil.STATUS_ZOMBIE]

    def are_all_there(self) -> bool:
        """Whether the run has recovered from the last fault."""
        with suppress(psutil.NoSuchProcess):
            return bool(self.raylet() and self.workers())
        return False


Fault = Callable[[Program, random.Random], None]
FAULTS: dict[str, Fault] = {
    "kill_worker": lambda program, chance: chance.choice(program.workers()).kill(),
    "kill_command": lambda program, chance: program.family()[0].kill(),
    # Ray's server on the node takes all of Ray's processes there with it.
    "kill_raylet": lambda program, chance: program.raylet()[0].kill(),
    # A suspended worker hangs.
    "stop_worker": lambda program, chance: chance.choice(program.workers()).suspend(),
    "preempt_worker": lambda program, chance: chance.choice(program.workers()).terminate(),
    "preempt_command": lambda program, chance: program.family()[0].terminate(),
}
"""What each fault does; those of a worker choose a random rank."""
KILLS = ("kill_worker", "kill_command", "kill_raylet")


class Struck(NamedTuple):
    """A fault and the step before it."""

    step: int
    trouble: str
    in_commit: bool
    """Whether a checkpoint was being written."""


def run_through(
    program: Program,
    faults: Sequence[str],
    gap: tuple[int, int],
    chance: random.Random,
    look: Callable[[Program, int], None] = lambda program, step: None,
) -> list[Struck]:
    """Run a command ``odeformer pretrain …`` until it succeeds, with one fault after another.

    Args:
        faults: names in :data:`FAULTS`, in this order; after the last one the run is left alone.
        gap: the least and the most optimizer steps between two faults.
        look: called repeatedly with the program and the last step.

    Raises:
        RuntimeError: if the command fails without a fault, or hangs.
    """
    struck, left = list[Struck](), list(faults)
    events, step = EventReader(program.run, from_end=False), 0
    while True:
        # Count the gap from the first step after each start, which takes long in itself.
        program.start()
        was_broken, made, target = False, 0, chance.randint(*gap)
        in_commit = chance.random() < 1 / 3
        last_sign = time.monotonic()
        while not program.has_ended():
            for event in events.new():
                if event["event"] == "step":
                    step, made, last_sign = event["step"], made + 1, time.monotonic()
            look(program, step)
            writing = any((program.run / "checkpoints").glob(".step-*.incomplete"))
            # A third of the faults wait for the next checkpoint, which takes only a moment to write.
            if left and made >= target and (writing or not in_commit) and program.are_all_there():
                time.sleep(0 if in_commit else chance.uniform(0, LONGEST_DELAY))
                fault = left.pop(0)
                struck.append(Struck(step, fault, in_commit))
                with suppress(psutil.NoSuchProcess, IndexError):
                    FAULTS[fault](program, chance)
                was_broken, made, target = True, 0, chance.randint(*gap)
                in_commit = chance.random() < 1 / 3
            if time.monotonic() - last_sign > LONGEST_SECONDS:
                FAULTS["kill_command"](program, chance)
                raise RuntimeError(f"no step for {LONGEST_SECONDS:.0f} s after step {step}")
            time.sleep(POLL_SECONDS)
        code = program.exits[-1]
        if code == 0:
            return struck
        if not was_broken and code != PREEMPTED:
            raise RuntimeError(f"the command exited with {code}:\n{program.said()[-2000:]}")


def odeformer() -> str:
    """The path of this environment's ``odeformer`` command."""
    return str(Path(sys.executable).parent / "odeformer")
