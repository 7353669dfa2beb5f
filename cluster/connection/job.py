"""A pretraining job on a cluster: its state, what it waits for, and why it failed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.tags import RUN_DIR

LAST_LINES = 20

Resources = Mapping[str, float]
"""Amounts of resources by name."""


@dataclass(frozen=True)
class Job:
    """A pretraining job as the cluster reports it."""

    name: str
    state: str
    """pending, running, succeeded, failed or stopped."""
    run_dir: str
    submitted: float
    """Seconds since the epoch."""
    ended: float | None = None
    lacks: str | None = None
    """What a pending job waits for, if the cluster can tell."""
    cause: str | None = None
    """Exit code and last error message of a failed job."""
    last_lines: tuple[str, ...] = ()
    """Last lines of the log of a failed job."""

    @property
    def seconds(self) -> float:
        """Duration of the job, or time since its submission while it has not ended."""
        return (self.ended or time.time()) - self.submitted


def job_from(details: Any, waiting: Mapping[str, str]) -> Job:
    """The job that Ray describes.

    Args:
        details: Ray's ``JobDetails``.
        waiting: what :func:`waiting_reasons` returned.
    """
    state = details.status.value.lower()
    lacks = cause = None
    last_lines: tuple[str, ...] = ()
    if state == "pending":
        lacks = "the cluster to start it"
    elif state == "running" and details.job_id in waiting:  # its workers have not been placed yet
        state, lacks = "pending", waiting[details.job_id]
    elif state == "failed":
        cause, last_lines = _failure(details)
    return Job(
        name=details.submission_id,
        state=state,
        run_dir=details.metadata[RUN_DIR],
        submitted=details.start_time / 1000,
        ended=details.end_time / 1000 if details.end_time else None,
        lacks=lacks,
        cause=cause,
        last_lines=last_lines,
    )


def _failure(details: Any) -> tuple[str, tuple[str, ...]]:
    """Cause and last lines of the log of a failed job."""
    lines = [line for line in (details.message or "no message").splitlines() if line.strip()]
    code = details.driver_exit_code
    if code is None:
        return lines[0], tuple(lines[1:][-LAST_LINES:])
    printed = lines[1:]  # the first line announces the others
    errors = [line.removeprefix("error: ") for line in printed if line.startswith("error: ")]
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{how}: {errors[-1]}" if errors else how, tuple(printed[-LAST_LINES:])


def waiting_reasons(
    groups: Iterable[Mapping[str, Any]], nodes: Iterable[Mapping[str, Any]]
) -> dict[str, str]:
    """The resources that the workers of each waiting job lack, by Ray's job ID.

    Args:
        groups: Ray's placement groups, as its state API lists them.
        nodes: Ray's nodes, in the same form.
    """
    groups = list(groups)
    taken = _sum(_bundles(group) for group in groups if group["state"] == "CREATED")
    total = _sum(node["resources_total"] for node in nodes if node["state"] == "ALIVE")
    return {
        group["creator_job_id"]: lacking(_bundles(group), taken, total)
        for group in groups
        if group["state"] in ("PENDING", "RESCHEDULING")
    }


def lacking(wanted: Resources, taken: Resources, total: Resources) -> str:
    """The resources that are short, as ``pretrain: 2 wanted, 1 free of 1``."""
    short = []
    for name, amount in sorted(wanted.items()):
        free = total.get(name, 0.0) - taken.get(name, 0.0)
        if amount > free:
            short.append(f"{name}: {amount:g} wanted, {max(0.0, free):g} free of {total.get(name, 0.0):g}")
    return "; ".join(short) or "room for its workers on one node"


def _bundles(group: Mapping[str, Any]) -> dict[str, float]:
    return _sum(bundle["unit_resources"] for bundle in group["bundles"] or [])


def _sum(amounts: Iterable[Resources]) -> dict[str, float]:
    total: dict[str, float] = {}
    for resources in amounts:
        for name, amount in resources.items():
            total[name] = total.get(name, 0.0) + amount
    return total
