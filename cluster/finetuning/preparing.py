"""Preparation of a task on its base: examples, depth, sequence length, trainable model, and loop input."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import registry
from cluster.runs import heartbeat
from cluster.runs.events import Event
from cluster.settings import (
    CheckpointSettings,
    OptimSettings,
    RunSettings,
    TrainSettings,
    ZeroSettings,
)
from cluster.tags import DIGEST
from cluster.tasks.task import Task, read_sets
from cluster.tracking import runs
from data.tasks.kinds import kind_named
from odeformer.gradients import gradient_named
from odeformer.solvers import solver_named

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from cluster.finetuning.methods import Trained
    from cluster.finetuning.together import Together
    from cluster.training.work import Report, Work
    from data.chat import ChatTemplate
    from data.tasks.examples import TaskSets
    from odeformer.lora import Adapter
    from odeformer.model import Odeformer

DEPTH_FILE = "depth.json"
"""File in a job's folder with the depth that its latency budget allowed when it first ran."""


@dataclass(frozen=True)
class Base:
    """The base model of a task, loaded."""

    version: registry.Version
    folder: Path
    tokenizer: Tokenizer
    model: Odeformer

    @property
    def lineage(self) -> dict[str, str]:
        """Name, version and digest of the base."""
        version = self.version
        return {"name": version.name, "version": version.version, "digest": version.tags[DIGEST]}


def open_base(model: str, uri: str) -> Base:
    """Fetch, verify and load the version ``models:/…``."""
    import torch

    import odeformer
    from data.tokenizer import load_tokenizer

    with heartbeat.transferring():
        version, folder = registry.resolve(model, uri), registry.fetch(model, uri)
    loaded = odeformer.load(folder)
    loaded.to("cuda" if torch.cuda.is_available() else "cpu")
    return Base(version, folder, load_tokenizer(folder), loaded)


def open_parent(task: Task, base: Base, uri: str) -> tuple[Adapter, Path] | None:
    """Fetch, verify and load the adapter that a preference task begins from, with its folder."""
    from odeformer.checkpoint import read_adapter

    if task.preference.parent is None:
        return None
    with heartbeat.transferring():
        folder = registry.fetch(task.preference.parent, uri)
    adapter = read_adapter(base.model.config, folder, base.folder)
    return adapter.requires_grad_(False).to(base.model.embedding.weight.device), folder


@dataclass(frozen=True)
class Prepared:
    """The examples and the training settings that follow from a task and its base."""

    sets: TaskSets
    """The examples as the stream takes them."""
    data: str
    """Digest of the examples as they were read."""
    chat: ChatTemplate | None
    """The template of conversations; None for other kinds of tasks."""
    depth: int
    """Depth N of evaluation."""
    sequence_length: int
    train: TrainSettings


def prepare(task: Task, folder: Path, base: Base, parent: Path | None = None) -> Prepared:
    """Read the examples, and choose depth and sequence length.

    Args:
        folder: the job's folder.
        parent: the folder of the adapter that it begins from, if any, for its chat template.

    Raises:
        ValueError, FileNotFoundError: for unusable data, or a depth or length that the base does not allow.
    """
    sets, depth, chat = read_sets(task), _depth(task, base.model, folder), None
    data = sets.digest()
    if kind_named(task.kind).template is not None:
        from data.chat import ChatTemplate
        from odeformer.checkpoint import load_tokenizer_config

        chat = ChatTemplate.of(base.tokenizer, load_tokenizer_config(base.folder, parent))
        sets = sets.tokenized(task.kind, chat)
    length = _sequence_length(task, sets, base)
    return Prepared(sets, data, chat, depth, length, _train_settings(task, base.model, depth))


def trainable(
    task: Task,
    base: Base,
    depth: int,
    together: Together | None = None,
    parent: Adapter | None = None,
) -> Trained:
    """The model to train by the task's method, evaluated at depth N."""
    from cluster.finetuning import methods

    if task.method == "full":
        return methods.full(base.model, base.folder / "tokenizer.json")
    if task.method == "norms":
        return methods.norms(base.model)
    return methods.lora(task, base.model, depth, together, parent)


def work_of(
    task: Task, folder: Path, base: Base, prepared: Prepared, trained: Trained, report: Report
) -> Work:
    """The input of the training loop."""
    from cluster.finetuning.preference import PreferenceLoss, preference_scores
    from cluster.runs import preemption
    from cluster.tasks.scoring import scores
    from cluster.training.loss import TokenLoss
    from cluster.training.work import Work
    from data.tasks.example import Pair
    from data.tasks.stream import TaskStream, encode, shortened

    sets, train, length = prepared.sets, prepared.train, prepared.sequence_length
    if any(too_long := shortened([*sets.train, *sets.validation], base.tokenizer, length)):
        report(Event.TOO_LONG, 0, dict(zip(("examples_cut", "examples_left_out"), too_long, strict=True)))

    is_paired = kind_named(task.kind).rows == "pairs"
    fitting = [windows for e in sets.validation if (windows := encode(e, base.tokenizer, length))]
    if not fitting:
        raise ValueError(f"data: no validation example fits into {length} tokens: give shorter ones")

    def validate(engine: Any) -> dict[str, float]:
        batch, depth = train.micro_batch, prepared.depth
        if is_paired:
            pairs = [Pair(*windows) for windows in fitting]
            metrics = preference_scores(engine, pairs, batch, depth, task.preference)
        else:
            metrics = scores(engine, sets, base.tokenizer, length, batch, depth)
        return {f"validation_{metric}": value for metric, value in metrics.items()}

    return Work(
        model=trained.model,
        stream=TaskStream(
            sets.train,
            base.tokenizer,
            rows=kind_named(task.kind).rows,
            rank=0,
            world_size=1,
            global_batch=train.global_batch,
            sequence_length=length,
            seed=task.train.seed,
        ),
        validate=validate,
        loss=PreferenceLoss(task.preference) if is_paired else TokenLoss(),
        report=report,
        run=RunSettings(dir=folder, seed=task.train.seed),
        train=train,
        optim=OptimSettings(learning_rate=task.train.learning_rate, weight_decay=0.0),
        zero=ZeroSettings(stage=0),
        checkpoint=CheckpointSettings(every=100, keep=1),
        finish_backward=trained.finish_backward,
        must_stop=lambda: preemption.is_asked(folder),
    )


def _train_settings(task: Task, model: Odeformer, depth: int) -> TrainSettings:
    asked = task.train
    method = gradient_named(asked.gradient)
    return TrainSettings(
        steps=asked.steps,
        global_batch=asked.global_batch,
        micro_batch=asked.micro_batch or asked.global_batch,
        # The result runs with the base's solver, even if its gradient needs another one in training.
        solver=model.solver if method.goes_with(solver_named(model.solver)) else None,
        gradient=asked.gradient,
        depths=asked.depths or (depth,),
        validate_every=asked.validate_every or asked.steps,
        compile="off",  # a job has ended before a minute of compiling has paid
    )


def _depth(task: Task, model: Odeformer, folder: Path) -> int:
    """Depth N of evaluation; a resumed job keeps it."""
    if task.latency_ms is None:
        depth = task.depth or model.config.depth
    elif (folder / DEPTH_FILE).is_file():
        depth = int(json.loads((folder / DEPTH_FILE).read_text(encoding="utf-8"))["depth"])
    else:
        from odeformer.measure.cost import measure_decoding

        depth = measure_decoding(model).depth_for(task.latency_ms)
        folder.mkdir(parents=True, exist_ok=True)
        runs.write_json(folder / DEPTH_FILE, {"depth": depth, "latency_ms": task.latency_ms})
    for asked in (depth, *task.train.depths):
        model.grids(asked)  # raises for a depth that is too small, before training starts
    return depth


def _sequence_length(task: Task, sets: TaskSets, base: Base) -> int:
    """Sequence length in tokens: the task's, or that of its longest example; at most the base's context."""
    limit, asked = base.model.config.context_length, task.train.sequence_length
    assert limit is not None
    if asked is None:
        return _longest(sets, base.tokenizer, limit)
    if asked > limit:
        raise ValueError(
            f"train.sequence_length {asked} is longer than the context of {task.base}, {limit} tokens"
        )
    return asked


def _longest(sets: TaskSets, tokenizer: Tokenizer, limit: int) -> int:
    """Sequence length of the longest example, since padding costs as much as text."""
    from data.tasks.example import Example
    from data.tasks.stream import encode

    # Evaluation scores every label after every validation prompt: none of them may truncate a prompt.
    asked = [Example(e.prompt, label) for e in sets.validation for label in sets.labels]
    examples = sets.train + sets.validation + asked
    lengths = [len(window.ids) for e in examples for window in encode(e, tokenizer, limit)]
    return max(lengths, default=limit + 1) - 1
