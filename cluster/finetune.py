"""One fine-tuning job: base from the registry, adapter trained by the one loop, adapter into the registry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import registry, tracking, upload
from cluster.settings import (
    CheckpointSettings,
    OptimSettings,
    RunSettings,
    Task,
    TrainSettings,
    ZeroSettings,
    goes_with,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from data.tasks.examples import TaskSets
    from odeformer.lora import Adapter


@dataclass(frozen=True)
class FinetuneResult:
    """What a job reached: ``before`` and ``after`` are the validation metric, untuned and tuned."""

    team: str
    task: str
    metric: str
    before: float
    after: float
    adapter_model: str
    adapter_version: str
    base_version: str


def read_sets(task: Task) -> TaskSets:
    """Both sets of a task, checked.

    Raises:
        ValueError, FileNotFoundError: for malformed data, or validation labels that training never shows.
    """
    from data.tasks.examples import read_task_sets

    data = task.data
    return read_task_sets(data.train, data.validation, task.kind, data.prompt, data.completion, data.held_out)


def check(task: Task, uri: str | None) -> Task:
    """A task that can be queued: its base is the version that the name stands for now, its paths are whole.

    Raises:
        ValueError, FileNotFoundError: for an unknown base or unusable data, before anything runs.
    """
    read_sets(task)
    base = registry.resolve(task.base, uri)
    if base.tags.get("odeformer.kind") != "checkpoint":
        raise ValueError(f"base {task.base} is an adapter; a task needs a checkpoint to start from")
    validation = task.data.validation
    data = task.data.model_copy(
        update={
            "train": task.data.train.absolute(),
            "validation": None if validation is None else validation.absolute(),
        }
    )
    return task.model_copy(update={"base": base.uri, "data": data})


def finetune(task: Task, folder: Path, uri: str) -> FinetuneResult:
    """Train and register one task's adapter, in this process alone.

    Args:
        task: as :func:`check` gave it.
        folder: where the job writes.
        uri: the MLflow store.
    """
    import torch

    import odeformer
    from cluster.scoring import score
    from cluster.training import worker
    from data.tasks.stream import TaskStream
    from data.tokenizer import load_tokenizer
    from odeformer.lora import Adapter

    base = registry.resolve(task.base, uri)
    base_folder = registry.fetch(task.base, uri)
    sets = read_sets(task)
    tokenizer = load_tokenizer(base_folder)
    model = odeformer.load(base_folder)
    assert model.config.context_length is not None
    length = _longest(sets, tokenizer, model.config.context_length)
    train = TrainSettings(
        steps=task.train.steps,
        global_batch=task.train.global_batch,
        micro_batch=task.train.micro_batch or task.train.global_batch,
        # The adapter runs by the base's solver, by whichever it is trained.
        solver=model.solver if goes_with(task.train.gradient, model.solver) else None,
        gradient=task.train.gradient,
        depths=task.train.depths,
        validate_every=task.train.steps,
    )

    _join_alone()
    torch.manual_seed(task.train.seed)
    # Frozen weights need no gradient, so W(t) needs none either: autograd never forms it.
    model.requires_grad_(False)
    model.hypernetwork.adapter = adapter = Adapter(task.adapter, model.config)
    run_id = tracking.start_run(
        uri, f"finetune-{task.team}", f"{task.team}/{task.name}", task.model_dump(mode="json"), folder
    )
    scores: list[float] = []

    def validate(engine: Any) -> dict[str, float]:
        scores.append(score(engine, sets, tokenizer, length, train.micro_batch))
        return {f"validation_{metric_name(task)}": scores[-1]}

    with upload.ended(folder), upload.Tracker(folder) as tracker:
        worker.train(
            worker.Work(
                model=model,
                stream=TaskStream(
                    sets.train,
                    tokenizer,
                    rank=0,
                    world_size=1,
                    global_batch=train.global_batch,
                    sequence_length=length,
                    seed=task.train.seed,
                ),
                validate=validate,
                report=tracker,
                run=RunSettings(dir=folder, seed=task.train.seed),
                train=train,
                optim=OptimSettings(learning_rate=task.train.learning_rate, weight_decay=0.0),
                zero=ZeroSettings(stage=0),
                checkpoint=CheckpointSettings(every=max(100, task.train.steps), keep=1),
            )
        )
        version = _register(task, adapter, base, folder, run_id, uri)
    return FinetuneResult(
        task.team,
        task.name,
        metric_name(task),
        scores[0],
        scores[-1],
        version.name,
        version.version,
        base.version,
    )


def _register(
    task: Task, adapter: Adapter, base: registry.Version, folder: Path, run_id: str, uri: str
) -> registry.Version:
    from odeformer import checkpoint

    lineage = {"name": base.name, "version": base.version, "digest": base.tags[registry.DIGEST]}
    checkpoint.save_adapter(adapter, lineage, folder / "adapter")
    return registry.register(
        folder / "adapter",
        f"{base.name}-{task.team}-{task.name}",
        run_id=run_id,
        uri=uri,
        tags={
            "odeformer.kind": "adapter",
            "odeformer.team": task.team,
            "odeformer.task": task.name,
            "odeformer.parameters": str(sum(p.numel() for p in adapter.parameters())),
            registry.BASE_NAME: lineage["name"],
            registry.BASE_VERSION: lineage["version"],
            registry.BASE_DIGEST: lineage["digest"],
        },
        alias="champion",
    )


def metric_name(task: Task) -> str:
    """``loss`` (nats per token that counts) or ``accuracy``."""
    return "accuracy" if task.kind == "classification" else "loss"


def _longest(sets: TaskSets, tokenizer: Tokenizer, limit: int) -> int:
    """The sequence length the task needs, at most the base's context: padding costs as much as text."""
    from data.tasks.examples import Example
    from data.tasks.stream import encode

    # Scoring asks for every label on every validation prompt: none of them may push a prompt out.
    asked = [Example(e.prompt, label) for e in sets.validation for label in sets.labels]
    examples = sets.train + sets.validation + asked
    return max(len(window.ids) for e in examples for window in encode(e, tokenizer, limit)) - 1


def _join_alone() -> None:
    """A process group of one, which needs no port."""
    from torch import distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
