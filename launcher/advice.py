"""A task's methods tried out, as its user sees it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from cluster.finetuning.advise import Probe
from cluster.tasks.task import Task
from launcher.terminal.progress import Progress


@dataclass(frozen=True)
class Advice:
    """What was tried, and what it says."""

    task: Task
    steps: int
    """Of each probe."""
    probes: list[Probe]
    recommended: Probe
    base_parameters: int


def name(probe: Probe) -> str:
    """What it tried: ``lora 8 + embedding``."""
    return f"{probe.method} {probe.rank or ''}".strip() + (" + embedding" if probe.embedding else "")


def advice(task: Task, uri: str | None, steps: int, progress: Progress) -> Advice:
    """Try every method of the task here, for so many steps each.

    Raises:
        ValueError, FileNotFoundError: when the task cannot run.
    """
    from cluster.finetuning import advise, job
    from cluster.registry import resolve
    from cluster.tags import PARAMETERS
    from cluster.tracking.store import tracking_uri

    uri = tracking_uri(uri)
    checked = job.check(task, uri)

    def on_probe(probe: Probe, part: float) -> None:
        progress.update(part, f"{name(probe)}, N = {probe.depth}: {probe.before:.3f} → {probe.after:.3f}")

    with tempfile.TemporaryDirectory(prefix="advice-") as folder:
        probes = advise.advise(checked, Path(folder), uri, steps, on_probe)
    parameters = int(resolve(checked.base, uri).tags[PARAMETERS])
    return Advice(checked, steps, probes, advise.recommended(probes, task.score), parameters)
