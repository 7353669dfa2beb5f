"""``odeformer eval``: how well a model predicts a text and answers tasks, at every depth asked for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher.evaluation.lm_eval import Tasks, TaskScore, score_tasks

if TYPE_CHECKING:
    from cluster.registry import Loaded


class TextScore(NamedTuple):
    """At one depth."""

    depth: int
    nats_per_token: float
    perplexity: float
    """Per token: it depends on the tokenizer."""
    bits_per_byte: float
    """Of the text: it does not."""


@dataclass
class Evaluation:
    """What was found out about a model."""

    text: list[TextScore] = field(default_factory=list)
    tasks: list[TaskScore] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """What one has to know to read the tasks' numbers."""

    def content(self) -> dict[str, Any]:
        """As plain values, for programs."""
        return {
            "text": [score._asdict() for score in self.text],
            "tasks": [score._asdict() for score in self.tasks],
            "remarks": self.remarks,
        }


def evaluate(
    model: str,
    adapter: str | None,
    depths: Sequence[int],
    tracking_uri: str | None,
    *,
    text: Path | None = None,
    tasks: Tasks | None = None,
    limit: int | None = None,
    progress: Callable[[float, str], None] = lambda fraction, what: None,
) -> Evaluation:
    """Score a text, and ask tasks, at each depth; a registered model's scores become an MLflow run.

    Args:
        model, adapter: as :func:`cluster.registry.load` takes them.
        depths: N; the model depth when empty.
        text: a UTF-8 file, read whole, in windows of the context length.
        tasks, limit, progress: as :func:`launcher.evaluation.lm_eval.score_tasks` takes them.
    """
    from cluster import registry

    loaded = registry.load(model, tracking_uri, adapter)
    wanted = sorted(set(depths or [loaded.model.config.depth]))
    for depth in wanted:
        loaded.model.grids(depth)  # refuses one that this model does not have before the others are run
    found = Evaluation()
    settings: dict[str, Any] = {}
    if text is not None:
        found.text, tokens = _score_text(loaded, text, wanted)
        settings |= {"text": text.name, "tokens": tokens}
    if tasks is not None:
        tokenizer = loaded.folder / "tokenizer.json"
        found.tasks = score_tasks(tasks, loaded.model, tokenizer, wanted, limit, progress)
        found.remarks = _remarks(loaded, found.tasks)
        settings |= {"tasks": ", ".join(tasks.names)} | ({} if limit is None else {"limit": limit})
    if loaded.versions:
        _log(loaded, settings, found, tracking_uri)
    return found


def _score_text(loaded: Loaded, text: Path, depths: Sequence[int]) -> tuple[list[TextScore], int]:
    """And the text's number of tokens."""
    import torch

    from odeformer.measure.text_loss import text_loss

    context = loaded.model.config.context_length
    assert context is not None
    content = text.read_text(encoding="utf-8")
    ids = torch.tensor(loaded.tokenizer.encode(content, add_special_tokens=False).ids)

    def at_depth(depth: int, x: Any) -> Any:
        return loaded.model(x, depth=depth).logits

    scores = []
    for depth in depths:
        nats = text_loss(partial(at_depth, depth), ids, context)
        # The first token is given, not predicted: its bytes count as the others' mean does.
        bits = nats * len(ids) / math.log(2) / len(content.encode())
        scores.append(TextScore(depth, nats, math.exp(nats), bits))
    return scores, len(ids)


def _remarks(loaded: Loaded, scores: Sequence[TaskScore]) -> list[str]:
    from odeformer.interop.materialise import layer_solver

    remarks = []
    solver = layer_solver(loaded.model)
    if loaded.model.solver != solver:
        remarks.append(
            f"trained by {loaded.model.solver}; the tasks were asked of the layers that {solver}'s steps are"
        )
    if cut := max((score.truncated for score in scores), default=0):
        context = loaded.model.config.context_length
        remarks.append(
            f"{cut:,} requests are longer than the context of {context} tokens: they lost their beginnings"
        )
    return remarks


def _log(loaded: Loaded, settings: dict[str, Any], found: Evaluation, uri: str | None) -> None:
    from cluster.tracking import runs, store

    metrics = {
        f"{name}_{score.depth}": getattr(score, name)
        for score in found.text
        for name in ("nats_per_token", "bits_per_byte")
    }
    for score in found.tasks:
        # A task's or a filter's name may be any text; a metric's may not.
        name = re.sub(r"[^\w./ -]", "_", f"{score.task}/{score.metric}")
        metrics[f"{name}_{score.depth}"] = score.value
    known = loaded.versions[0]
    settings = {"model": known.uri, **settings}
    runs.finished_run(store.tracking_uri(uri), "evaluations", known.name, settings, metrics)
