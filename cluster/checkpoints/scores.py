"""The record of a run's scored commits, ``run.dir/scores.json``: a commit is kept while it waits for scores.

The driver writes the record before the workers start and after each scoring; the worker that removes
superseded commits reads it.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ValidationError

from cluster.checkpoints import folder
from odeformer.files.atomic import new_file

FILE_NAME = "scores.json"


class Best(BaseModel):
    """The best scored commit of a run."""

    step: int
    score: str
    """Name of the score that it is best by."""
    value: float


class Record(BaseModel):
    """The commits that are chosen to be scored, and those that are done."""

    every: int
    last: int
    """Step of the last commit, which is scored too."""
    done: list[int] = []
    """Steps of the commits that are scored, or given up."""
    failed: list[int] = []
    """Steps of failed scorings."""
    best: Best | None = None

    def is_waiting(self, step: int) -> bool:
        """Whether a commit at this step is still to be scored."""
        return (step % self.every == 0 or step == self.last) and step not in self.done


def read(run: Path) -> Record | None:
    """The record of a run; ``None`` if it scores no commits, or the record is damaged."""
    try:
        return Record.model_validate_json((run / FILE_NAME).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def write(run: Path, record: Record) -> None:
    """Write the record of a run atomically."""
    with new_file(run / FILE_NAME) as temporary:
        temporary.write_text(record.model_dump_json(indent=2), encoding="utf-8")


def waiting(run: Path) -> list[Path]:
    """The commits of a run that wait for their scores, oldest first."""
    record, commits = read(run), folder.commits(run / "checkpoints")
    return [] if record is None else [c for c in commits if record.is_waiting(folder.step_of(c))]
