"""Tables of the fine-tune pool: its jobs, its teams, and a job's history."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from cluster.pool.job import Job, JobDetails
from cluster.pool.status import PoolStatus, TeamStatus
from launcher.terminal.console import make_table
from launcher.terminal.durations import moment

_COLORS = {"running": "cyan", "succeeded": "green", "trained": "green", "failed": "red", "cancelled": "dim"}


def jobs_table(jobs: Sequence[Job]) -> Table:
    """A row for each job of the pool, with its result or the reason of its state."""
    table = make_table("job", "state", numbers=("priority", "attempts", "age"), wrapped=("result or reason",))
    for job in jobs:
        table.add_row(
            job.id,
            Text(job.state, style=_COLORS.get(job.state, "")),
            str(job.priority) if job.priority else "",
            str(job.attempts),
            f"{time.time() - job.submitted:,.0f} s",
            summary(job),
        )
    return table


def summary(job: Job) -> str:
    """A job's result, or the reason of its state, in a few words."""
    result = job.result
    if job.state == "succeeded" and result:
        reached = f"{result['metric']} {result['before']:.3f} → {result['after']:.3f}"
        if result["adapter_version"] is None:  # a trial
            return reached
        return f"{reached}, models:/{result['adapter_model']}/{result['adapter_version']}"
    if job.ending:
        return f"stopping: {job.ending}"
    if job.together_with:
        return f"shares its slot with {len(job.together_with)} more"
    if job.state == "failed":
        return str(job.error)
    why = [job.reason or "", f"waits for {job.waits_for}" if job.waits_for else ""]
    return "; ".join(filter(None, why))


def history_table(job: JobDetails) -> Table:
    """A row for each state change of a job."""
    table = make_table("time", "state", wrapped=("reason",))
    for entry in job.history:
        table.add_row(moment(entry.time), entry.state, entry.reason or "")
    return table


def teams_table(status: PoolStatus) -> Table:
    """A row for each team: its jobs, its fair share of the slots, and its usage."""
    titles = ("weight", "running", "fair share", "queued", "slot-seconds", "behind by", "budget")
    table = make_table("team", numbers=titles)
    for team in status["teams"]:
        most = team["max_running"]
        table.add_row(
            team["team"],
            f"{team['weight']:g}",
            f"{team['running']}" if most is None else f"{team['running']} of {most}",
            f"{team['fair_slots']:.2f}",
            f"{team['queued']} of {team['max_queued']}",
            f"{team['service_seconds']:,.0f}",
            f"{team['behind_seconds']:,.0f} s",
            _budget(team),
        )
    return table


def _budget(team: TeamStatus) -> str:
    budget = team["budget"]
    if budget is None:
        return ""
    return f"{team['spent_hours'][budget['per']]:.1f} of {budget['slot_hours']:g} h this {budget['per']}"


def status_line(status: PoolStatus) -> str:
    """The pool's state in one line."""
    slots = status["slots"]
    sharing = f" with {status['running']} jobs" if status["running"] > slots["busy"] else ""
    line = (
        f"{status['state']}, {slots['busy']} slots busy{sharing}, {slots['free']} free, "
        f"{slots['starting']} starting; "
        f"journal and jobs in {status['dir']}, adapters in {status['tracking_uri']}"
    )
    waiting = f"; {status['trained']} trained, waiting for the registry" if status["trained"] else ""
    trouble = f"; waits for its disk: {status['trouble']}" if status["trouble"] else ""
    return line + waiting + trouble
