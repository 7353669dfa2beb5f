"""Which method for a task: each is tried for a few steps, and what came of it is laid side by side."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.runs.events import FILE_NAME, Event, EventLog, events_from
from cluster.tasks.task import Task

RANKS = (2, 8, 32)
ENOUGH = 0.95
"""Of the largest gain, for which something smaller is preferred."""


@dataclass(frozen=True)
class Probe:
    """A variant of a task, and what a few steps of it came to."""

    method: str
    rank: int | None
    """Of method ``lora``."""
    embedding: bool
    """Whether ``embedding`` is among ``adapter.targets``, too."""
    depth: int
    """N at which it was trained and scored."""
    trained: int
    """Parameters."""
    before: float
    """The task's metric on its validation set, untuned."""
    after: float
    step_seconds: float
    """The median, here."""

    def gain(self, metric: str) -> float:
        """How much better it got; negative where it got worse."""
        return self.before - self.after if metric == "loss" else self.after - self.before


def variants(task: Task, model_depth: int) -> Iterator[Task]:
    """The task by every method, with its own rank among the ranks and the embedding beside it; and as it is
    at half its depth.

    A latency budget stays the task's: what it buys is the depth of all of them.
    """
    for rank in sorted({*RANKS, task.adapter.rank}):
        yield task.model_copy(
            update={"method": "lora", "adapter": task.adapter.model_copy(update={"rank": rank})}
        )
    targets = task.adapter.targets
    if "embedding" not in targets:
        wider = task.adapter.model_copy(update={"targets": (*targets, "embedding")})
        yield task.model_copy(update={"method": "lora", "adapter": wider})
    for method in ("norms", "full"):
        yield task.model_copy(update={"method": method})
    half = (task.depth or model_depth) // 2
    if task.latency_ms is None and half >= 2:
        yield task.model_copy(update={"depth": half})


def advise(
    task: Task,
    folder: Path,
    uri: str,
    steps: int,
    on_probe: Callable[[Probe, float], object] = lambda probe, part: None,
) -> list[Probe]:
    """Try every variant for ``steps`` steps, one after the other in this process. Nothing is registered.

    Args:
        task: as :func:`cluster.finetuning.job.check` gave it.
        folder: where the probes write.
        uri: the MLflow store, for the base.
        on_probe: called with each that is done, and which part of all of them is.
    """
    import torch

    from cluster.finetuning import job, preparing
    from cluster.training import worker

    job.join_alone()
    short = task.train.model_copy(update={"steps": steps})
    probes = []
    model_depth = preparing.open_base(task.base, uri).model.config.depth
    tried = list(variants(task.model_copy(update={"train": short}), model_depth))
    for number, variant in enumerate(tried):
        base = preparing.open_base(task.base, uri)  # the last one has been trained
        place = folder / str(number)
        place.mkdir(parents=True)
        prepared = preparing.prepare(variant, place, base)
        torch.manual_seed(variant.train.seed)
        trained = preparing.trainable(variant, base, prepared.depth)
        worker.train(preparing.work_of(variant, place, base, prepared, trained, EventLog(place)))
        probes.append(_read(variant, place, prepared.depth, trained.parameters))
        on_probe(probes[-1], len(probes) / len(tried))
    return probes


def _read(variant: Task, folder: Path, depth: int, trained: int) -> Probe:
    events = events_from(folder / FILE_NAME, 0)[0]
    found = [event[f"validation_{variant.score}"] for event in events if event["event"] == Event.VALIDATION]
    seconds = [event["step_seconds"] for event in events if event["event"] == Event.STEP]
    # The first step pays for what is imported and allocated once.
    is_lora = variant.method == "lora"
    return Probe(
        method=variant.method,
        rank=variant.adapter.rank if is_lora else None,
        embedding=is_lora and "embedding" in variant.adapter.targets,
        depth=depth,
        trained=trained,
        before=found[0],
        after=found[-1],
        step_seconds=statistics.median(seconds[1:] or seconds),
    )


def recommended(probes: list[Probe], metric: str) -> Probe:
    """The one with the fewest trained parameters, of equals the shallower one, among those that have 95 % of
    the largest gain; where nothing gains anything, the one that loses least."""
    best = max(probe.gain(metric) for probe in probes)
    if best <= 0:
        return max(probes, key=lambda probe: probe.gain(metric))
    good = [probe for probe in probes if probe.gain(metric) >= ENOUGH * best]
    return min(good, key=lambda probe: (probe.trained, probe.depth))
