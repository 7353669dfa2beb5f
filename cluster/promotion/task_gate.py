"""A task's gate: what its version has to reach to become champion of its name without anybody looking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster import registry
from cluster.promotion import promote
from cluster.promotion.promote import GateSettings
from cluster.registry import aliases
from cluster.runs.events import Event, EventLog
from cluster.tasks.task import Task


def judged(task: Task, before: dict[str, float], after: dict[str, float]) -> dict[str, Any] | None:
    """The task's gate, with the ``value`` of its metric and whether that ``reached`` it.

    ``reached`` is None where the gate is against the champion, who has yet to be asked.
    """
    gate = task.gate
    if gate is None:
        return None
    metric, reached = gate.metric or task.score, None
    value = after[metric]
    if gate.against is None:
        reached = value <= gate.threshold if metric == "loss" else value >= gate.threshold
    elif gate.against == "base":
        better = before[metric] - value if metric == "loss" else value - before[metric]
        reached = better >= gate.threshold
    return gate.model_dump() | {"metric": metric, "value": value, "reached": reached}


def settle(
    version: registry.Version, uri: str, gate: dict[str, Any], depth: int, folder: Path
) -> registry.Version:
    """Make a registered version champion, if its gate lets it; the version as it is then.

    Done again, it changes nothing: a version that has been champion and is not any more stays what it is.

    Args:
        gate: as :func:`judged` gave it.
        depth: N at which a champion is asked.
        folder: the job's, for its log.
    """
    log = aliases.read_log(version.name, uri)
    if gate["reached"] is False or any(move.after == version.version for move in log.moves if move.counts):
        return version
    try:
        if gate["reached"] or not log.champions:
            why = f"its task's gate: {gate['metric']} {gate['value']:.4g}"
            aliases.move(version, uri, why=why, based_on=log.last)
        else:
            asked = GateSettings(depth=depth, threshold=-gate["threshold"])
            promote.promote(version.uri, uri, asked, why="its task's gate")
    except ValueError as error:  # another came first, or there are too few examples to compare by
        EventLog(folder)(Event.NOT_PROMOTED, 0, {"reason": str(error)})
    return registry.resolve(version.uri, uri)
