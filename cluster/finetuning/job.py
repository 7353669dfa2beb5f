"""Fine-tuning jobs: load the base from the registry, train it with the common loop, register the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import registry
from cluster.finetuning.preparing import Base, Prepared, open_base, open_parent, prepare, trainable, work_of
from cluster.finetuning.result import (
    VERSION_FILE,
    FinetuneResult,
    Reached,
    base_tags,
    model_name,
    read_scores,
    read_too_long,
    register_job,
    write_version_file,
)
from cluster.promotion.task_gate import judge
from cluster.registry.aliases import CHAMPION
from cluster.registry.run_output import REGISTER_SECONDS
from cluster.runs import heartbeat
from cluster.runs.events import Event, EventLog
from cluster.tags import DATA_DIGEST, METHOD
from cluster.tasks.task import Task, check_data, shape
from cluster.tracking import runs, upload
from cluster.tracking.inputs import dataset_input
from cluster.tracking.lineage import code_tags

if TYPE_CHECKING:
    from cluster.finetuning.together import Together

__all__ = [
    "VERSION_FILE",
    "FinetuneResult",
    "check",
    "check_base",
    "finetune",
    "finetune_together",
    "register_job",
]


def check(task: Task, uri: str | None) -> Task:
    """Validate a task and resolve it: its base becomes a fixed version, its paths absolute.

    Raises:
        ValueError, FileNotFoundError: for an unknown base, unusable data, or names that make no model's name.
    """
    return check_base(check_data(task), uri)


def check_base(task: Task, uri: str | None) -> Task:
    """The part of :func:`check` that queries the registry.

    Raises:
        ValueError: for an unknown base, or names that make no model's name.
    """
    try:
        base = registry.resolve(task.base, uri)
    except ValueError as error:
        raise ValueError(f"base: {error}") from None
    if base.kind != "checkpoint":
        raise ValueError(f"base {task.base} is an adapter; a task needs a checkpoint to start from")
    model_name(task, uri)
    task = task.model_copy(update={"base": base.uri})
    if task.preference.parent is None:
        return task
    try:
        parent = registry.resolve(task.preference.parent, uri)
    except ValueError as error:
        raise ValueError(f"preference.parent: {error}") from None
    if parent.base != base.uri or parent.tags.get(METHOD) == "norms":
        raise ValueError(f"preference.parent: {parent.uri} is no low-rank adapter of {base.uri}")
    preference = task.preference.model_copy(update={"parent": parent.uri})
    return task.model_copy(update={"preference": preference})


def finetune(
    task: Task, folder: Path, uri: str, register_seconds: float = REGISTER_SECONDS
) -> FinetuneResult:
    """Train and register one task's adapter or model in this process.

    The MLflow store must be reachable at the start, for the result's name and the base. After that it may be
    unreachable: logs wait in the folder, and so does a model that could not be registered in time. Called
    again with the same folder, the job resumes from its last checkpoint.

    Args:
        task: a task returned by :func:`check`.
        register_seconds: how long to try to register the result.

    Raises:
        PreemptedError: when SIGTERM or the folder's ``control`` file stopped it; the current step has been
            committed.
    """
    join_alone()
    name = model_name(task, uri)
    return _finetune(task, folder, uri, name, open_base(task.base, uri), None, register_seconds)


def finetune_together(
    tasks: Sequence[Task],
    folders: Sequence[Path],
    uri: str,
    register_seconds: float = REGISTER_SECONDS,
    on_end: Callable[[int, FinetuneResult | Exception], None] = lambda number, end: None,
) -> list[FinetuneResult | Exception]:
    """Train several tasks in this process, as :func:`finetune` would, with joint passes over their base.

    Each job has its own folder, stream, optimizer, schedule, events, checkpoints and version, as if it were
    alone, and can be resumed alone. A job that fails leaves the others alone; its error takes its place in
    the result.

    Args:
        tasks: tasks returned by :func:`check`.
        register_seconds: how long to try to register each result.
        on_end: called with a job's index and its result or error as soon as it has ended.

    Raises:
        ValueError: for tasks that differ in :func:`~cluster.tasks.task.shape`, or a base that cannot be
            shared.
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
    names = [model_name(task, uri) for task in tasks]
    base = open_base(tasks[0].base, uri)
    depth = tasks[0].depth or base.model.config.depth
    together = Together(frozen(base.model, {depth, *tasks[0].train.depths}))

    def run_job(number: int, task: Task, folder: Path) -> FinetuneResult:
        try:
            result = _finetune(task, folder, uri, names[number], base, together, register_seconds)
        except Exception as error:
            on_end(number, error)
            raise
        on_end(number, result)
        return result

    jobs = enumerate(zip(tasks, folders, strict=True))
    return together.run([partial(run_job, number, task, folder) for number, (task, folder) in jobs])


def _finetune(
    task: Task,
    folder: Path,
    uri: str,
    name: str,
    base: Base,
    together: Together | None,
    register_seconds: float,
) -> FinetuneResult:
    import torch

    from cluster.training import worker

    parent, parent_folder = open_parent(task, base, uri) or (None, None)
    prepared = prepare(task, folder, base, parent_folder)
    torch.manual_seed(task.train.seed)
    trained = trainable(task, base, prepared.depth, together, parent)
    _start_run(task, folder, uri, base, prepared)
    with upload.ended(folder), upload.Tracker(folder) as tracker:
        worker.train(work_of(task, folder, base, prepared, trained, tracker))
        trained.save(base.lineage, folder / trained.files, prepared.chat)
        before, after = read_scores(folder)
        gate = judge(task, before, after)
        reached = Reached(depth=prepared.depth, metric=task.score, score=after[task.score], gate=gate)
        write_version_file(task, base.version, folder, name, trained.files, trained.parameters, reached)

    version = None
    try:
        if task.trial is None:
            with heartbeat.transferring():
                version = register_job(folder, seconds=register_seconds)
            if gate is not None and gate["reached"] is None:
                gate["reached"] = CHAMPION in version.aliases
    except ConnectionError as error:
        EventLog(folder)(Event.NOT_REGISTERED, task.train.steps, {"reason": str(error)})
    return FinetuneResult(
        team=task.team,
        task=task.name,
        metric=task.score,
        before=before[task.score],
        after=after[task.score],
        adapter_model=name,
        adapter_version=None if version is None else version.version,
        base_version=base.version.version,
        method=task.method,
        depth=prepared.depth,
        gate=gate,
        too_long=read_too_long(folder),
    )


def _start_run(task: Task, folder: Path, uri: str, base: Base, prepared: Prepared) -> None:
    tags = {**code_tags(), **base_tags(base.version), DATA_DIGEST: prepared.data}
    files = {"training": task.data.train, "validation": task.data.validation or task.data.train}
    counts = {"training": len(prepared.sets.train), "validation": len(prepared.sets.validation)}
    if task.parent_run is not None:
        tags[runs.PARENT] = task.parent_run
    try:
        runs.start_run(
            uri,
            f"finetune-{task.team}",
            f"{task.team}/{task.name}",
            task.model_dump(mode="json"),
            folder,
            tags,
            inputs=[
                dataset_input(file.name, prepared.data, str(file), {"examples": counts[use]}, use)
                for use, file in files.items()
            ],
        )
    except ConnectionError as error:  # it is started when the store answers
        EventLog(folder)(Event.TRACKING_AWAY, 0, {"reason": str(error)})


def join_alone() -> None:
    """Initialize a process group of one process, which needs no port."""
    from torch import distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
