"""Evaluation of models on the same examples, to decide a promotion."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from cluster import registry
from cluster.promotion import paired_bootstrap
from cluster.registry.fetching import read_settings
from cluster.tasks.task import Task, read_sets
from data.tasks.kinds import kind_named
from odeformer.files.shown import MASK, masked
from odeformer.files.text import read_exactly

if TYPE_CHECKING:
    from torch import Tensor

    from data.tasks.examples import TaskSets

BATCH = 16


@dataclass(frozen=True)
class Evaluation:
    """An evaluation that is the same for every model."""

    metric: str
    """``loss`` in nats per token, or ``error``, the fraction of wrong labels."""
    data: str
    """Name of the data."""
    measure: Callable[[registry.Loaded, int], paired_bootstrap.Measured]
    """Evaluates a model at depth N."""


def evaluation_of(
    versions: Sequence[registry.Version], data: str | None, count: int, loaded: registry.Loaded, uri: str
) -> Evaluation:
    """An evaluation on given data, or on the validation set of the first version that has one.

    Args:
        versions: the versions whose validation sets are used without ``data``, in order of preference.
        data: shards, of which the validation split is used, or a text file.
        count: maximum number of sequences from shards or a text.
        loaded: the model and tokenizer of one of them.

    Raises:
        ValueError, FileNotFoundError: when the data do not exist, or no data are given and none are known.
    """
    if data is not None:
        return _of_data(data, count, loaded)
    missing: FileNotFoundError | None = None
    for version in versions:
        settings = read_settings(version, uri)
        shards = _shards(settings)
        task = _task(settings)
        try:
            if shards and MASK not in "".join(shards):  # they are not recorded with their passwords
                return _of_shards(shards, count)
            if task is not None:
                return _of_task(task)
        except FileNotFoundError as error:
            missing = missing or error
    if missing is not None:
        raise missing
    raise ValueError(f"{versions[-1].uri} does not record its validation data: give --data, shards or a text")


def _of_data(data: str, count: int, loaded: registry.Loaded) -> Evaluation:
    if not Path(data).is_file():
        return _of_shards([data], count)
    rows = _text_rows(Path(data), loaded, count)
    return Evaluation("loss", masked(data), lambda model, depth: _losses(model, depth, rows))


def _of_shards(shards: Sequence[str], count: int) -> Evaluation:
    import torch

    rows = torch.cat([_shard_rows(location, max(1, count // len(shards))) for location in shards])
    name = f"{', '.join(map(masked, shards))}, validation"
    return Evaluation("loss", name, lambda model, depth: _losses(model, depth, rows))


def _shards(settings: dict[str, Any]) -> list[str]:
    """The shards of a pretraining run's recorded settings, of one source or several."""
    section = settings.get("data")
    sources = section.get("sources") or [section] if isinstance(section, dict) else []
    if not isinstance(sources, list):
        return []
    return [s["shards"] for s in sources if isinstance(s, dict) and isinstance(s.get("shards"), str)]


def _of_task(task: Task) -> Evaluation:
    if kind_named(task.kind).rows == "pairs":
        raise ValueError(
            f"{task.team}/{task.name} scores pairs of answers, by each version's own reference: give --data"
        )
    metric, sets = "error" if kind_named(task.kind).labeled else "loss", read_sets(task)
    name = f"{task.team}/{task.name}, validation"
    return Evaluation(metric, name, lambda model, depth: _task_losses(model, depth, sets, task.kind))


def _task(settings: dict[str, Any]) -> Task | None:
    try:
        return Task.model_validate(settings)
    except ValidationError:
        return None


def _text_rows(text: Path, loaded: registry.Loaded, count: int) -> Tensor:
    """Windows of a text, spread evenly over it: [windows, context + 1]."""
    import torch

    content = read_exactly(text)
    length = loaded.model.config.context_length
    assert length is not None
    ids = torch.tensor(loaded.tokenizer.encode(content).ids, dtype=torch.long)
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
    losses = np.concatenate(sums)
    return paired_bootstrap.Measured(losses, np.full(len(losses), float(targets)))


def _task_losses(loaded: registry.Loaded, depth: int, sets: TaskSets, kind: str) -> paired_bootstrap.Measured:
    from cluster.tasks.scoring import completion_losses, label_losses
    from data.chat import ChatTemplate

    sets = sets.tokenized(kind, ChatTemplate.of(loaded.tokenizer, loaded.tokenizer_config))
    model, length = loaded.model, loaded.model.config.context_length
    assert length is not None
    if not sets.labels:
        totals, counts = completion_losses(model, sets.validation, loaded.tokenizer, length, BATCH, depth)
        return paired_bootstrap.Measured(totals.numpy(), counts.numpy())
    totals, _, right = label_losses(model, sets, loaded.tokenizer, length, BATCH, depth)
    errors = (totals.argmin(dim=1) != right).double().numpy()
    return paired_bootstrap.Measured(errors, np.ones(len(errors)))
