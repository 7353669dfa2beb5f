"""What the trials of a search came to."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from cluster.pool.job import Job
from cluster.pool.search import TaskSearch, Trial


def state_in_words(trial: Trial) -> str:
    """That of its job."""
    if trial.state == "succeeded" and trial.result is None:
        return "no number"
    return "stopped" if trial.state == "cancelled" else trial.state


def trials_table(search: TaskSearch) -> Table:
    """A row for each trial, the best one marked."""
    table = Table("trial", *search.keys, box=None, header_style="bold", pad_edge=False)
    table.add_column(f"{search.metric} at step", justify="right")
    table.add_column("")
    best = search.best
    for trial in search.trials.values():
        is_best = best is not None and trial.job == best.job
        drawn = [_short(value) for value in trial.values.values()]
        note = "best" if is_best else state_in_words(trial).replace("succeeded", "")
        table.add_row(str(trial.number), *drawn, _last(trial), Text(note), style="bold" if is_best else "")
    return table


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _last(trial: Trial) -> str:
    if not trial.validations:
        return ""
    step = max(trial.validations)
    return f"{trial.validations[step]:.3f} at {step}"


def content(search: TaskSearch, job: Job) -> dict[str, Any]:
    """The same for ``--json``, with the job that was run with the best trial's values."""
    best = search.best
    trials = [
        {
            "trial": trial.number,
            "job": trial.job,
            "values": trial.values,
            "state": trial.state,
            "result": trial.result,
            "validations": {str(step): value for step, value in trial.validations.items()},
        }
        for trial in search.trials.values()
    ]
    return {"trials": trials, "best": None if best is None else best.number, "job": asdict(job)}
