"""Evaluation of a model on a text and on tasks, at several depths."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from cluster import registry
from cluster.evaluation.lm_eval import Tasks, TaskScore, score_tasks
from cluster.evaluation.text import loss_at_depth, read_ids
from cluster.registry import Loaded
from cluster.tracking import runs, store
from odeformer.interop.materialize import layer_solver


class TextScore(NamedTuple):
    """The loss on a text at one depth."""

    depth: int
    nats_per_token: float
    perplexity: float
    """Perplexity per token; it depends on the tokenizer."""
    bits_per_byte: float
    """Bits per byte of the text; independent of the tokenizer."""


@dataclass
class Evaluation:
    """All scores of a model."""

    text: list[TextScore] = field(default_factory=list)
    tasks: list[TaskScore] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """Sentences needed to interpret the scores, or about where they were logged."""

    def content(self) -> dict[str, object]:
        """The scores as JSON values."""
        return {
            "text": [score._asdict() for score in self.text],
            "tasks": [score._asdict() for score in self.tasks],
            "remarks": self.remarks,
        }

    def metrics(self) -> dict[str, float]:
        """The scores by their names in MLflow, which end with the depth."""
        metrics = {}
        for text in self.text:
            metrics[f"nats_per_token_{text.depth}"] = text.nats_per_token
            metrics[f"bits_per_byte_{text.depth}"] = text.bits_per_byte
        for task in self.tasks:
            metrics[task.name] = task.value
        return metrics


def evaluate(
    model: str,
    adapter: str | None,
    depths: Sequence[int],
    tracking_uri: str | None,
    *,
    text: Path | None = None,
    tasks: Tasks | None = None,
    limit: int | None = None,
    progress: Callable[[float, str], None] = lambda fraction, detail: None,
) -> Evaluation:
    """Score a text and tasks at each depth; a registered model's scores are logged to MLflow.

    A remark says so if MLflow does not take them.

    Args:
        model, adapter: As for :func:`cluster.registry.load`.
        depths: Depths N; the model's depth if empty.
        tracking_uri: MLflow tracking URI.
        text: UTF-8 file, read in windows of the context length.
        tasks, limit, progress: As for :func:`cluster.evaluation.lm_eval.score_tasks`.
    """
    loaded = registry.load(model, tracking_uri, adapter)
    wanted = sorted(set(depths or [loaded.model.config.depth]))
    for depth in wanted:
        loaded.model.grids(depth)  # refuses a depth that the model does not have, before the first is scored

    evaluation = Evaluation()
    settings: dict[str, Any] = {"model": loaded.versions[0].uri} if loaded.versions else {}
    if text is not None:
        evaluation.text, tokens = _score_text(loaded, text, wanted)
        settings |= {"text": text.name, "tokens": tokens}
    if tasks is not None:
        tokenizer = loaded.folder / "tokenizer.json"
        evaluation.tasks = score_tasks(tasks, loaded.model, tokenizer, wanted, limit, progress)
        evaluation.remarks = _remarks(loaded, evaluation.tasks)
        settings |= {"tasks": ", ".join(tasks.names)} | ({} if limit is None else {"limit": limit})
    if loaded.versions:
        uri, name = store.tracking_uri(tracking_uri), loaded.versions[0].name
        try:
            runs.finished_run(uri, "evaluations", name, settings, evaluation.metrics())
        except (ValueError, OSError) as error:  # what was computed is shown in any case
            evaluation.remarks.append(f"these scores are not in MLflow: {error}")
    return evaluation


def _score_text(loaded: Loaded, text: Path, depths: Sequence[int]) -> tuple[list[TextScore], int]:
    """The scores and the text's number of tokens."""
    ids = read_ids(text, loaded.tokenizer)
    size = text.stat().st_size
    of_text = len(ids) - len(loaded.tokenizer.encode("").ids)
    scores = []
    for depth in depths:
        nats = loss_at_depth(loaded.model, ids, depth)
        # Without begin-of-text, the first token is not predicted: its bytes count with the others' mean.
        bits = nats * of_text / math.log(2) / size
        scores.append(TextScore(depth, nats, math.exp(nats), bits))
    return scores, len(ids)


def _remarks(loaded: Loaded, scores: Sequence[TaskScore]) -> list[str]:
    remarks = []
    solver = layer_solver(loaded.model)
    if loaded.model.solver != solver:
        remarks.append(
            f"trained by {loaded.model.solver}; tasks are scored with layers that are steps of {solver}"
        )
    if cut := max((score.truncated for score in scores), default=0):
        context = loaded.model.config.context_length
        remarks.append(
            f"{cut:,} requests are longer than the context of {context} tokens: their beginnings were cut off"
        )
    return remarks
