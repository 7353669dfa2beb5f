"""The result of ``odeformer finetune search``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.table import Table

from cluster.pool.job import Job
from cluster.pool.search import TaskSearch, Trial
from launcher.terminal.console import make_table


def state_in_words(trial: Trial) -> str:
    """The state of a trial's job, in the words of a search."""
    if trial.state == "succeeded" and trial.result is None:
        return "no number"
    return "stopped" if trial.state == "cancelled" else trial.state


def trials_table(search: TaskSearch) -> Table:
    """A row for each trial; the best one is marked."""
    table = make_table("trial", *search.keys, numbers=(f"{search.metric} at step",))
    table.add_column("")
    best = search.best
    for trial in search.trials.values():
        is_best = best is not None and trial.job == best.job
        values = [_short(value) for value in trial.values.values()]
        note = "best" if is_best else state_in_words(trial).replace("succeeded", "")
        table.add_row(str(trial.number), *values, _last(trial), note, style="bold" if is_best else "")
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


def content(search: TaskSearch, job: Job) -> dict[str, object]:
    """The trials and the job that was run with the best one's values, as JSON values."""
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
