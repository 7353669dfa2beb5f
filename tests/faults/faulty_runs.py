"""Whole runs by the command line, as real processes that are killed, stopped and asked to end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import forked
import psutil
from small_runs import events, small_settings
from waiting import wait_for, wait_until_gone

STEPS = 30
SECTIONS: dict[str, dict[str, Any]] = {
    "train": {"steps": STEPS, "validate_every": 1000, "validation_sequences": 4},
    "checkpoint": {"every": 7},
}
"""What these runs change of the small ones."""


class Command:
    """``odeformer pretrain`` in a folder of its own, in a session of its own."""

    def __init__(self, folder: Path, shards: Path, *changes: str, program: Callable[[], None] | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        settings = small_settings(shards, folder, **SECTIONS)
        (folder / "config.json").write_text(settings.model_dump_json())
        self.run = folder / "run"
        options = [f"--set={change}" for change in changes]
        self.process = forked.Command(
            "pretrain", "config.json", *options, cwd=folder, start_new_session=True, program=program
        )
        self._seen = len(self.steps())

    def steps(self) -> list[int]:
        """The steps that were made, in the order they were."""
        return [event["step"] for event in events(self.run, "step")]

    def wait_for_step(self, step: int) -> None:
        """Wait until this command has made a step that is no earlier than ``step``."""
        wait_for(
            lambda: (
                self.process.poll() is not None or any(made >= step for made in self.steps()[self._seen :])
            )
        )
        assert self.process.poll() is None, self.process.communicate()

    def family(self) -> list[psutil.Process]:
        """All processes below it."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def worker(self, rank: int) -> psutil.Process:
        """The process of a rank of the worker group that is at work."""
        newest = max((self.run / "heartbeats").iterdir(), key=lambda attempt: int(attempt.name))
        return psutil.Process(json.loads((newest / f"{rank}.json").read_text())["pid"])

    def end(self) -> tuple[int, str, str]:
        """Wait for the end: exit code, what was said, and what was said of errors."""
        said, errors = self.process.communicate()
        return self.process.wait(), said, errors


@contextmanager
def pretraining(
    folder: Path, shards: Path, *changes: str, program: Callable[[], None] | None = None
) -> Iterator[Command]:
    """Start a run, by the command line or what does its work; whatever happens, nothing is left behind."""
    command = Command(folder, shards, *changes, program=program)
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
    """What was said of each new start of a run's workers."""
    return events(run, "restarting")


def weights_of(run: Path) -> str:
    """The digest of the weights that a run came to."""
    return hashlib.sha256((run / "final" / "model.safetensors").read_bytes()).hexdigest()
