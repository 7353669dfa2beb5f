"""Runs of the command line in real processes that are killed, stopped and preempted."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import forked
import psutil
from empty_store import empty_store
from small_runs import events, held_worker, let, small_settings
from waiting import wait_for, wait_until_gone

from cluster import pretrain

STEPS = 30
SECTIONS: dict[str, dict[str, Any]] = {
    "train": {"steps": STEPS, "validate_every": 1000, "validation_sequences": 4},
    "checkpoint": {"every": 7},
}
"""What these runs change of the small ones."""


def held_command() -> None:
    """``odeformer`` with runs that stop at each step that is not allowed."""
    from launcher.cli.main import main

    pretrain.pretrain_worker = held_worker
    main()


class Command:
    """``odeformer pretrain`` in its own folder and process session."""

    def __init__(
        self, folder: Path, shards: Path, *changes: str, until: int, program: Callable[[], None]
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        settings = small_settings(shards, folder, **SECTIONS)
        (folder / "config.json").write_text(settings.model_dump_json())
        self.run = folder / "run"
        empty_store(folder)
        self.let(until)
        options = [f"--set={change}" for change in changes]
        # Ray's own processes inherit it, and its workers find the function that is to be held.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = forked.Command(
            *("pretrain", "config.json", *options),
            cwd=folder,
            env=environment,
            start_new_session=True,
            program=program,
        )
        self._seen = len(self.steps())

    def steps(self) -> list[int]:
        """The steps in the order in which they were made."""
        return [event["step"] for event in events(self.run, "step")]

    def wait_for_step(self, step: int) -> None:
        """Wait until this command has made ``step`` or a later one."""
        wait_for(
            lambda: (
                self.process.poll() is not None or any(made >= step for made in self.steps()[self._seen :])
            )
        )
        assert self.process.poll() is None, self.process.communicate()

    def let(self, step: int) -> None:
        """Allow the workers to continue up to this step."""
        let(self.run, step)

    def go_on_until(self, condition: Callable[[], object]) -> None:
        """Allow one more step at a time until the condition holds."""

        def one_more() -> bool:
            self.let(max(self.steps()[self._seen :], default=0) + 1)
            return bool(condition())

        wait_for(one_more)

    def family(self) -> list[psutil.Process]:
        """All descendants of the command's process."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def worker(self, rank: int) -> psutil.Process:
        """The process of a rank of the current worker group."""
        newest = max((self.run / "heartbeats").iterdir(), key=lambda attempt: int(attempt.name))
        return psutil.Process(json.loads((newest / f"{rank}.json").read_text())["pid"])

    def end(self) -> tuple[int, str, str]:
        """Wait for the end; returns exit code, standard output and standard error."""
        said, errors = self.process.communicate()
        return self.process.wait(), said, errors


@contextmanager
def pretraining(
    folder: Path,
    shards: Path,
    *changes: str,
    until: int = STEPS,
    program: Callable[[], None] = held_command,
) -> Iterator[Command]:
    """Start a run, and end all of its processes at the end.

    Args:
        until: the step at which its workers wait.
        program: the command line.
    """
    command = Command(folder, shards, *changes, until=until, program=program)
    family: list[psutil.Process] = []
    try:
        yield command
    finally:
        if command.process.poll() is None:
            family = command.family()
            for process in (command.process, *family):
                process.kill()
        command.process.wait()
        wait_until_gone(family)


def restarts(run: Path) -> list[dict[str, Any]]:
    """The reason for each restart of a run's workers."""
    return events(run, "restarting")


def weights_of(run: Path) -> str:
    """Digest of a run's final weights."""
    return hashlib.sha256((run / "final" / "model.safetensors").read_bytes()).hexdigest()
