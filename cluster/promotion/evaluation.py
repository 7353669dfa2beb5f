"""What two models are asked before one takes the other's place, and what each answers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from cluster import registry
from cluster.promotion import paired_bootstrap
from cluster.registry.about import LINEAGE_FILE
from cluster.registry.fetching import read_json
from data.tasks.kinds import kind_named

if TYPE_CHECKING:
    from torch import Tensor

    from cluster.tasks.task import Task
    from data.tasks.examples import TaskSets

BATCH = 16


@dataclass(frozen=True)
class Questions:
    """The same for every model that is asked."""

    metric: str
    """``loss`` in nats per token, or ``error``, the part of wrong answers."""
    data: str
    ask: Callable[[registry.Loaded, int], paired_bootstrap.Measured]
    """What a model answers at depth N."""


def questions(
    version: registry.Version, data: str | None, count: int, loaded: registry.Loaded, uri: str
) -> Questions:
    """From shards, of which the validation split counts, or a text file; or what it was validated on.

    Args:
        count: sequences of shards or a text, at most.
        loaded: the version itself: its tokenizer reads a text.

    Raises:
        ValueError, FileNotFoundError: when there are no such data, or none are given or known.
    """
    lineage = read_json(version, LINEAGE_FILE, uri) or {}
    made_by: dict[str, Any] = lineage.get("settings", {})
    data = data or made_by.get("data", {}).get("shards")
    if data is not None and Path(data).is_file():
        rows = _text_rows(Path(data), loaded, count)
        return Questions("loss", data, lambda model, depth: _losses(model, depth, rows))
    if data is not None:
        rows = _shard_rows(data, count)
        return Questions("loss", f"{data}, validation", lambda model, depth: _losses(model, depth, rows))
    task = _task(made_by)
    if task is None:
        raise ValueError(
            f"{version.uri} does not say what it was validated on: give --data, shards or a text"
        )
    from cluster.tasks.sets import read_sets

    metric, sets = "error" if kind_named(task.kind).labelled else "loss", read_sets(task)
    name = f"{task.team}/{task.name}, validation"
    return Questions(metric, name, lambda model, depth: _answers(model, depth, sets))


def _task(settings: dict[str, Any]) -> Task | None:
    from cluster.tasks.task import Task

    try:
        return Task.model_validate(settings)
    except ValidationError:
        return None


def _text_rows(text: Path, loaded: registry.Loaded, count: int) -> Tensor:
    """Windows [n, context + 1] of a text, spread evenly over it."""
    import torch

    try:
        content = text.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{text} is neither UTF-8 text nor a folder of shards") from None
    length = loaded.model.config.context_length
    assert length is not None
    ids = torch.tensor(loaded.tokenizer.encode(content, add_special_tokens=False).ids, dtype=torch.long)
    whole = max((len(ids) - 1) // length, 0)
    starts = (torch.linspace(0, max(whole - 1, 0), min(count, whole)).long() * length).tolist()
    return torch.cat([ids[:0].view(0, length + 1), *(ids[None, s : s + length + 1] for s in starts)])


def _shard_rows(shards: str, count: int) -> Tensor:
    from cluster.training.validation import sample_rows
    from data.files import local_description
    from data.manifest import load_manifest
    from data.stream import ShardStream

    with tempfile.TemporaryDirectory() as cache:
        length = load_manifest(local_description(shards, Path(cache))).sequence_length
        stream = ShardStream(
            shards,
            rank=0,
            world_size=1,
            global_batch=1,
            sequence_length=length,
            seed=0,
            split="validation",
            cache=Path(cache),
        )
        return sample_rows(stream, count)


def _losses(loaded: registry.Loaded, depth: int, rows: Tensor) -> paired_bootstrap.Measured:
    import torch

    from odeformer.model import token_losses

    sums, targets = [np.zeros(0)], rows.shape[1] - 1
    with torch.inference_mode():
        weights = loaded.model.depth_weights(depth)
        for batch in rows.split(BATCH) if len(rows) else ():
            logits = loaded.model(batch[:, :-1], depth=depth, weights=weights).logits
            sums.append(token_losses(logits, batch[:, 1:]).double().sum(dim=1).numpy())
    found = np.concatenate(sums)
    return paired_bootstrap.Measured(found, np.full(len(found), float(targets)))


class _AtDepth:
    """A model as :mod:`cluster.tasks.scoring` asks it, at one depth."""

    def __init__(self, loaded: registry.Loaded, depth: int) -> None:
        self._model, self._depth = loaded.model, depth
        self.device = loaded.model.embedding.weight.device

    def eval(self) -> None:
        self._model.eval()

    def __call__(self, ids: Tensor, depth: int | None = None) -> Any:
        return self._model(ids, depth=depth or self._depth)


def _answers(loaded: registry.Loaded, depth: int, sets: TaskSets) -> paired_bootstrap.Measured:
    from cluster.tasks.scoring import completion_losses
    from data.tasks.example import Example

    engine, length = _AtDepth(loaded, depth), loaded.model.config.context_length
    assert length is not None
    if not sets.labels:
        totals, counts = completion_losses(engine, sets.validation, loaded.tokenizer, length, BATCH)
        return paired_bootstrap.Measured(totals.numpy(), counts.numpy())
    asked = [Example(e.prompt, label) for e in sets.validation for label in sets.labels]
    totals, _ = completion_losses(engine, asked, loaded.tokenizer, length, BATCH)
    chosen = totals.view(-1, len(sets.labels)).argmin(dim=1).numpy()
    right = np.array([sets.labels.index(e.completion) for e in sets.validation])
    return paired_bootstrap.Measured((chosen != right).astype(np.float64), np.ones(len(right)))
