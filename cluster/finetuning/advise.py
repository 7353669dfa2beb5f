"""Comparison of fine-tuning methods for a task: each is tried for a few steps."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.runs.events import Event, EventLog, logged
from cluster.tasks.task import Task
from cluster.tracking.store import tracking_uri
from data.tasks.kinds import kind_named

RANKS = (2, 8, 32)
ENOUGH = 0.95
"""Fraction of the largest gain with which a smaller variant is preferred."""


@dataclass(frozen=True)
class Probe:
    """A variant of a task, and its results after a few steps."""

    method: str
    rank: int | None
    """LoRA rank; ``None`` for the other methods."""
    embedding: bool
    """Whether the adapter also targets the embedding."""
    depth: int
    """Depth N of training and evaluation."""
    trained: int
    """Number of trained parameters."""
    before: float
    """The task's metric on its validation set before training."""
    after: float
    step_seconds: float
    """Median time of an optimizer step on this machine."""

    @property
    def words(self) -> str:
        """The method in words, such as ``lora 8 + embedding``."""
        return f"{self.method} {self.rank or ''}".strip() + (" + embedding" if self.embedding else "")

    def gain(self, metric: str) -> float:
        """Improvement of the metric; negative if it deteriorated."""
        return self.before - self.after if metric == "loss" else self.after - self.before


def variants(task: Task, model_depth: int) -> Iterator[Task]:
    """The variants of a task that are compared.

    LoRA at several ranks and with the embedding, norms, full, and the task as it is at half its depth. A
    latency budget rules out the last one, because it decides the depth of all variants.
    """
    for rank in sorted({*RANKS, task.adapter.rank}):
        yield task.model_copy(
            update={"method": "lora", "adapter": task.adapter.model_copy(update={"rank": rank})}
        )
    targets = task.adapter.targets
    if "embedding" not in targets:
        wider = task.adapter.model_copy(update={"targets": (*targets, "embedding")})
        yield task.model_copy(update={"method": "lora", "adapter": wider})
    for method in ("norms", "full") if kind_named(task.kind).rows != "pairs" else ():
        yield task.model_copy(update={"method": method})
    half = (task.depth or model_depth) // 2
    if task.latency_ms is None and half >= 2:
        yield task.model_copy(update={"depth": half})


@dataclass(frozen=True)
class Advice:
    """The probes of a task's methods and the recommended one."""

    task: Task
    steps: int
    """Optimizer steps of each probe."""
    probes: list[Probe]
    recommended: Probe
    base_parameters: int


def advise(
    task: Task,
    uri: str | None,
    steps: int,
    on_probe: Callable[[Probe, float], object] = lambda probe, part: None,
) -> Advice:
    """Train every variant for ``steps`` steps, one after the other in this process. Nothing is registered.

    Args:
        steps: number of optimizer steps of each probe.
        on_probe: called after each probe with the fraction of the work that is done.

    Raises:
        ValueError, FileNotFoundError: if the task cannot run.
    """
    import torch

    from cluster.finetuning import job, preparing
    from cluster.training import worker
    from odeformer.model import parameter_count

    uri = tracking_uri(uri)
    task = job.check(task, uri)
    if task.preference.parent is not None:
        raise ValueError("preference.parent fixes the adapter's rank and targets: compare without it")
    job.join_alone()
    short = task.train.model_copy(update={"steps": steps})
    base = preparing.open_base(task.base, uri)
    parameters = parameter_count(base.model.config)
    tried = list(variants(task.model_copy(update={"train": short}), base.model.config.depth))
    probes = []
    for variant in tried:
        base = preparing.open_base(task.base, uri)  # afresh, because a probe trains it
        with tempfile.TemporaryDirectory(prefix="advice-") as folder:
            place = Path(folder)
            prepared = preparing.prepare(variant, place, base)
            torch.manual_seed(variant.train.seed)
            trained = preparing.trainable(variant, base, prepared.depth)
            worker.train(preparing.work_of(variant, place, base, prepared, trained, EventLog(place)))
            probes.append(_read(variant, place, prepared.depth, trained.parameters))
        on_probe(probes[-1], len(probes) / len(tried))
    return Advice(task, steps, probes, recommended(probes, task.score), parameters)


def _read(variant: Task, folder: Path, depth: int, trained: int) -> Probe:
    values = [event[f"validation_{variant.score}"] for event in logged(folder, Event.VALIDATION)]
    seconds = [event["step_seconds"] for event in logged(folder, Event.STEP)]
    is_lora = variant.method == "lora"
    return Probe(
        method=variant.method,
        rank=variant.adapter.rank if is_lora else None,
        embedding=is_lora and "embedding" in variant.adapter.targets,
        depth=depth,
        trained=trained,
        before=values[0],
        after=values[-1],
        # The first step includes imports and allocations.
        step_seconds=statistics.median(seconds[1:] or seconds),
    )


def recommended(probes: list[Probe], metric: str) -> Probe:
    """The smallest probe with 95 % of the largest gain; if nothing gains, the probe that loses least.

    Size is the number of trained parameters, then the depth.
    """
    best = max(probe.gain(metric) for probe in probes)
    if best <= 0:
        return max(probes, key=lambda probe: probe.gain(metric))
    good = [probe for probe in probes if probe.gain(metric) >= ENOUGH * best]
    return min(good, key=lambda probe: (probe.trained, probe.depth))
