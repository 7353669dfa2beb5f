"""The scores of a commit: what ``odeformer eval`` measures, with continuations of prompts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cluster import registry
from cluster.evaluation.commit import export_commit
from cluster.settings import EvaluateSettings, PretrainSettings
from data.tokenizer import end_of_text_id
from odeformer.inference.decoding import FixedDepthModel
from odeformer.inference.generate import generate_text
from odeformer.inference.sampling import Sampling


class Sample(NamedTuple):
    """A continuation of a prompt by the most likely tokens."""

    depth: int
    prompt: str
    text: str


@dataclass(frozen=True)
class Scored:
    """Scores and samples of a commit."""

    metrics: dict[str, float]
    """Scores by name: ``<task>/<metric>_<N>``, ``<text>/nats_per_token_<N>``, …"""
    higher_is_better: frozenset[str]
    """The names of the scores that are better if they are higher."""
    samples: tuple[Sample, ...]


def score_commit(commit: Path, settings: PretrainSettings, folder: Path) -> Scored:
    """Score a commit of a run, whose weights are left in ``folder`` as a checkpoint.

    Raises:
        ValueError, OSError: for what cannot be read, or a task that this model cannot run.
    """
    from cluster.evaluation.evaluate import evaluate  # imports transformers
    from cluster.evaluation.lm_eval import Tasks, metric_name

    chosen, depths = settings.evaluate, scored_depths(settings)
    export_commit(commit, settings, folder)
    metrics: dict[str, float] = {}
    higher: set[str] = set()
    for text in chosen.texts:
        found = evaluate(str(folder), None, depths, None, text=text).metrics()
        metrics |= {f"{metric_name(text.name)}/{name}": value for name, value in found.items()}
    if chosen.tasks:
        tasks = Tasks(chosen.tasks, chosen.task_folder)
        evaluation = evaluate(str(folder), None, depths, None, tasks=tasks, limit=chosen.limit)
        higher = {task.name for task in evaluation.tasks if task.higher_is_better}
        metrics |= evaluation.metrics()
    return Scored(metrics, frozenset(higher), tuple(_samples(chosen, depths, folder)))


def scored_depths(settings: PretrainSettings) -> list[int]:
    """The depths N that a run's commits are scored at, in ascending order."""
    return sorted(set(settings.evaluate.depths) or {settings.model.depth})


def score_named(name: str, settings: PretrainSettings, metrics: Collection[str]) -> str | None:
    """The full name of a score in ``register.best``, which may lack the depth; ``None`` if there is none."""
    depths = scored_depths(settings)
    depth = settings.model.depth if settings.model.depth in depths else depths[-1]
    return next((full for full in (name, f"{name}_{depth}") if full in metrics), None)


def _samples(chosen: EvaluateSettings, depths: list[int], folder: Path) -> list[Sample]:
    if not chosen.prompts:
        return []
    loaded = registry.load(str(folder))
    greedy, stop_id = Sampling(temperature=0.0), end_of_text_id(loaded.tokenizer)
    samples = []
    for depth in depths:
        model = FixedDepthModel(loaded.model, depth)
        for prompt in chosen.prompts:
            pieces = generate_text(model, loaded.tokenizer, prompt, sampling=greedy, stop_id=stop_id)
            samples.append(Sample(depth, prompt, "".join(pieces)))
    return samples
