"""Fine-tuning jobs: base from the registry, tuned by the one loop, what came of it into the registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import registry
from cluster.finetuning.preparing import Base, open_base, prepare, trainable, work_of
from cluster.finetuning.result import (
    VERSION_FILE,
    FinetuneResult,
    model_name,
    read_scores,
    register_run,
    write_version_file,
)
from cluster.promotion.task_gate import judged
from cluster.registry import from_run
from cluster.registry.about import DATA_DIGEST
from cluster.registry.aliases import CHAMPION
from cluster.runs.events import Event, EventLog
from cluster.tasks.sets import read_sets
from cluster.tasks.shape import shape
from cluster.tasks.task import Task
from cluster.tracking import runs, upload
from cluster.tracking.lineage import code_tags

if TYPE_CHECKING:
    from cluster.finetuning.together import Together

__all__ = ["VERSION_FILE", "FinetuneResult", "check", "finetune", "finetune_together", "register_run"]


def check(task: Task, uri: str | None) -> Task:
    """A task that can be queued: its base is the version that the name stands for now, its paths are whole.

    Raises:
        ValueError, FileNotFoundError: for an unknown base or unusable data, before anything runs.
    """
    try:
        read_sets(task)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"data: {error}") from None
    except ValueError as error:
        raise ValueError(f"data: {error}") from None
    try:
        base = registry.resolve(task.base, uri)
    except ValueError as error:
        raise ValueError(f"base: {error}") from None
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


def finetune(task: Task, folder: Path, uri: str, register_seconds: float | None = None) -> FinetuneResult:
    """Train and register one task's adapter or model, in this process alone.

    The store must be there at the start, for the base. It may be away from then on: what is to be logged
    waits in the folder, and so does what cannot be registered for two minutes. The same folder again goes on
    from the job's last checkpoint.

    Args:
        task: as :func:`check` gave it.
        folder: where the job writes.
        uri: the MLflow store.
        register_seconds: how long to try to register it; two minutes when not given.

    Raises:
        PreemptedError: when SIGTERM, or the folder's ``control`` file, asked it to end; the step in progress
            has been committed.
    """
    join_alone()
    return _finetune(task, folder, uri, open_base(task.base, uri), register_seconds=register_seconds)


def finetune_together(
    tasks: Sequence[Task],
    folders: Sequence[Path],
    uri: str,
    register_seconds: float | None = None,
    on_end: Callable[[int, FinetuneResult | Exception], None] = lambda number, end: None,
) -> list[FinetuneResult | Exception]:
    """As :func:`finetune` of each, in this process, with one pass over the base for all of them at a time.

    Each has its own folder, stream, optimizer, schedule, events, checkpoints and version, as if it were
    alone, and can be resumed alone. One that fails leaves the others alone: its error is in its place.

    Args:
        tasks: as :func:`check` gave them.
        folders: where each writes.
        uri: the MLflow store.
        register_seconds: as of :func:`finetune`.
        on_end: called with a job's place among them, and its result or error, as soon as it has ended.

    Raises:
        ValueError: for tasks that are not of one :func:`~cluster.tasks.shape.shape`, or a base that
            cannot be shared.
    """
    from cluster.finetuning.methods import frozen
    from cluster.finetuning.together import Together

    shapes = {shape(task) for task in tasks}
    if len(shapes) != 1 or None in shapes:
        raise ValueError(
            "tasks are trained together when they are of method 'lora' with the same base, depth, "
            "train.depths, train.sequence_length (given), batch and train.gradient ('direct' or 'checkpoint')"
        )
    join_alone()
    base = open_base(tasks[0].base, uri)
    depth = tasks[0].depth or base.model.config.depth
    together = Together(frozen(base.model, {depth, *tasks[0].train.depths}))

    def to_its_end(number: int, task: Task, folder: Path) -> FinetuneResult:
        try:
            result = _finetune(task, folder, uri, base, together, register_seconds)
        except Exception as error:
            on_end(number, error)
            raise
        on_end(number, result)
        return result

    jobs = enumerate(zip(tasks, folders, strict=True))
    return together.run([partial(to_its_end, number, *job) for number, job in jobs])


def _finetune(
    task: Task,
    folder: Path,
    uri: str,
    base: Base,
    together: Together | None = None,
    register_seconds: float | None = None,
) -> FinetuneResult:
    import torch

    from cluster.training import worker

    prepared = prepare(task, folder, base)
    torch.manual_seed(task.train.seed)
    trained = trainable(task, base, prepared.depth, together)
    _start_run(task, folder, uri, base.lineage, prepared.sets.digest())
    with upload.ended(folder), upload.Tracker(folder) as tracker:
        worker.train(work_of(task, folder, base, prepared, trained, tracker))
        trained.save(base.lineage, folder / trained.files)
        before, after = read_scores(folder)
        gate = judged(task, before, after)
        reached = {"depth": prepared.depth, "metric": task.score, "score": after[task.score], "gate": gate}
        write_version_file(task, base.version, folder, trained.files, trained.parameters, reached)
    version = None
    seconds = from_run.REGISTER_SECONDS if register_seconds is None else register_seconds
    try:
        if task.trial is None:
            version = register_run(folder, seconds=seconds)
            if gate is not None and gate["reached"] is None:
                gate["reached"] = CHAMPION in version.aliases
    except ConnectionError as error:
        EventLog(folder)(Event.NOT_REGISTERED, task.train.steps, {"reason": str(error)})
    return FinetuneResult(
        task.team,
        task.name,
        task.score,
        before[task.score],
        after[task.score],
        model_name(task, base.version),
        None if version is None else version.version,
        base.version.version,
        task.method,
        prepared.depth,
        gate,
    )


def _start_run(task: Task, folder: Path, uri: str, lineage: dict[str, str], data: str) -> None:
    of_base = {f"odeformer.base_{key}": value for key, value in lineage.items()}
    nested = {} if task.parent_run is None else {runs.PARENT: task.parent_run}
    tags = code_tags() | of_base | nested | {DATA_DIGEST: data}
    try:
        runs.start_run(
            uri,
            f"finetune-{task.team}",
            f"{task.team}/{task.name}",
            task.model_dump(mode="json"),
            folder,
            tags,
        )
    except ConnectionError as error:  # it is started when the store answers
        EventLog(folder)(Event.TRACKING_AWAY, 0, {"reason": str(error)})


def join_alone() -> None:
    """A process group of one, which needs no port."""
    from torch import distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
