"""Short trial runs of every fine-tuning method of a task."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from cluster.finetuning import advise as advising
from cluster.finetuning.advise import Probe
from cluster.finetuning.job import check
from cluster.registry import resolve
from cluster.tags import PARAMETERS
from cluster.tasks.task import Task
from cluster.tracking.store import tracking_uri
from launcher.terminal.progress import Progress


@dataclass(frozen=True)
class Advice:
    """The trial runs of a task's methods and the recommended one."""

    task: Task
    steps: int
    """Steps of each trial run."""
    probes: list[Probe]
    recommended: Probe
    base_parameters: int


def name(probe: Probe) -> str:
    """The method in words, such as ``lora 8 + embedding``."""
    return f"{probe.method} {probe.rank or ''}".strip() + (" + embedding" if probe.embedding else "")


def advise(task: Task, uri: str | None, steps: int, progress: Progress) -> Advice:
    """Try every method of the task in this process, for ``steps`` steps each.

    Raises:
        ValueError, FileNotFoundError: If the task cannot run.
    """
    uri = tracking_uri(uri)
    checked = check(task, uri)

    def on_probe(probe: Probe, part: float) -> None:
        progress.update(part, f"{name(probe)}, N = {probe.depth}: {probe.before:.3f} → {probe.after:.3f}")

    with tempfile.TemporaryDirectory(prefix="advice-") as folder:
        probes = advising.advise(checked, Path(folder), uri, steps, on_probe)
    parameters = int(resolve(checked.base, uri).tags[PARAMETERS])
    return Advice(checked, steps, probes, advising.recommended(probes, task.score), parameters)
