"""A task's gate: the condition under which its version becomes champion without anybody looking."""

from __future__ import annotations

from pathlib import Path

from typing_extensions import TypedDict  # pydantic wants this one below Python 3.12

from cluster import registry
from cluster.promotion.promote import GateSettings, promote
from cluster.registry import aliases
from cluster.runs.events import Event, EventLog
from cluster.tasks.task import Task


class GateResult(TypedDict):
    """A task's :class:`~cluster.tasks.task.Gate` with its result, as it is stored with the version."""

    metric: str
    threshold: float
    against: str | None
    value: float
    """The version's metric."""
    reached: bool | None
    """Whether the version passes; ``None`` while it has yet to be compared with the champion."""


def judge(task: Task, before: dict[str, float], after: dict[str, float]) -> GateResult | None:
    """Apply the task's gate to the metrics before and after training; ``None`` for a task without a gate."""
    gate = task.gate
    if gate is None:
        return None
    metric, reached = gate.metric or task.score, None
    value = after[metric]
    if gate.against is None:
        reached = value <= gate.threshold if metric == "loss" else value >= gate.threshold
    elif gate.against == "base":
        gain = before[metric] - value if metric == "loss" else value - before[metric]
        reached = gain >= gate.threshold
    return {
        "metric": metric,
        "threshold": gate.threshold,
        "against": gate.against,
        "value": value,
        "reached": reached,
    }


def settle(
    version: registry.Version, uri: str, gate: GateResult, depth: int, folder: Path
) -> registry.Version:
    """Make a registered version champion if it passes its gate; the version with its aliases.

    Idempotent: a version that was champion once is not promoted again.

    Args:
        gate: the result of :func:`judge`.
        depth: depth N of a comparison with the champion.
        folder: the job's folder, for its event log.
    """
    log = aliases.read_log(version.name, uri)
    if gate["reached"] is False or any(move.after == version.version for move in log.moves if move.counts):
        return version
    try:
        if gate["reached"] or not log.champions:
            why = f"its task's gate: {gate['metric']} {gate['value']:.4g}"
            aliases.move(version, uri, why=why, based_on=log.last)
        else:
            settings = GateSettings(depth=depth, threshold=-gate["threshold"])
            promote(version.uri, uri, settings, why="its task's gate")
    except (ValueError, FileNotFoundError) as error:  # another version came first, or data are missing
        EventLog(folder)(Event.NOT_PROMOTED, 0, {"reason": str(error)})
    return registry.resolve(version.uri, uri)
