"""Runs and jobs read from their folders: their settings, and what their logs tell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.runs.record import Record, read_record, run_folders
from cluster.settings import CheckpointSettings
from cluster.tracking import runs

Values = tuple[Any, Any]
"""A setting in two runs; ``None`` where one has no such setting."""
PLACES = ("run.dir", "tracking.uri")
"""Settings in which any two runs differ."""


@dataclass(frozen=True)
class Run:
    """A run of pretraining or a job of fine-tuning."""

    record: Record
    settings: dict[str, Any]
    """The resolved settings, or the task, as JSON."""

    @property
    def name(self) -> str:
        """The folder, as it was given."""
        return str(self.record.folder)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return int(self.settings["train"]["steps"])

    @property
    def checkpoint(self) -> CheckpointSettings:
        """How often it commits; the defaults for a job, whose task does not say."""
        return CheckpointSettings.model_validate(self.settings.get("checkpoint", {}))


def read_run(folder: Path) -> Run:
    """Read a run or a job.

    Raises:
        FileNotFoundError: when the folder holds none.
    """
    return Run(read_record(folder), runs.run_settings(folder))


def read_runs(root: Path) -> list[Run]:
    """The runs and jobs under a folder, the latest first."""
    found = [read_run(folder) for folder in run_folders(root) if (folder / runs.RUN_FILE).is_file()]
    return sorted(found, key=lambda run: -(run.record.began or 0.0))


def differing_settings(first: Run, second: Run) -> dict[str, Values]:
    """The settings in which two runs differ, by their dotted names; where they are stored does not count."""
    one, other = dict(runs.flat(first.settings)), dict(runs.flat(second.settings))
    names = dict.fromkeys([*one, *other])
    return {
        name: (one.get(name), other.get(name))
        for name in names
        if name not in PLACES and one.get(name) != other.get(name)
    }
