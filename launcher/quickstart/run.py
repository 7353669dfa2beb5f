"""The quick start: the calls of the other commands, on text that every machine has."""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cluster import pretrain as pretraining
from cluster import registry
from cluster.connection.connect import ray_cluster
from cluster.registry import aliases
from cluster.resolve import ResolvedRun, resolve_run
from cluster.tasks.task import Task
from cluster.tracking import store
from data.shards import build
from launcher.configuration.load import load_pretrain
from launcher.finetunes import run_tasks
from launcher.quickstart import standard_library, summary
from launcher.quickstart.standard_library import HELD_OUT
from launcher.terminal.pretrain_watcher import PretrainWatcher
from launcher.terminal.progress import Progress

TASKS: dict[str, dict[str, Any]] = {
    "docs": {
        "name": "docstring",
        "kind": "completion",
        "train": {"steps": 60, "global_batch": 8, "learning_rate": 5e-3},
    },
    "triage": {
        "name": "package",
        "kind": "classification",
        "train": {"steps": 80, "global_batch": 8, "learning_rate": 8e-3},
    },
}
"""The two teams' tasks, without base and data."""


def run(directory: Path, progress: Progress, started: float) -> None:
    """Build shards, pretrain, register, fine-tune two adapters, and show a summary.

    Args:
        directory: An empty output folder.
        progress: Shows the stages.
        started: When the command started, by ``time.monotonic()``.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # silences the profiler that measures memory
    with progress.stage("shards from Python's standard library"):
        resolved = _prepare(directory, progress)
        settings = resolved.settings
        uri = store.tracking_uri(settings.tracking.uri)

    workers = settings.cluster.workers
    with ExitStack() as cluster:
        with progress.stage("Ray"):
            cluster.enter_context(ray_cluster(None, pretrain_workers=workers, finetune_slots=len(TASKS)))
        with progress.stage(f"pretraining with {workers} ZeRO workers"):
            watcher = PretrainWatcher(settings, progress)
            version = pretraining.pretrain(resolved, watcher)
        if version is None:
            raise ConnectionError(f"the model could not be registered in {uri}: run the command again")
        aliases.move(version, uri, why="the quick start")  # a champion of an earlier quick start may exist
        tasks = [_task(team, f"models:/{version.name}@champion", directory / "tasks") for team in TASKS]
        results = run_tasks(tasks, directory / "finetune", uri, progress)
        with progress.stage("stopping Ray"):
            cluster.close()

    with progress.stage("cost of each depth, memory of each gradient method"):
        loaded = registry.load(version.uri, uri)
        text = summary.validation_text(settings, loaded.tokenizer)
        measured = summary.measure(loaded.model, sorted(watcher.validations[-1]), progress)
    content = summary.summarize(
        seconds=time.monotonic() - started,
        validations=watcher.validations,
        text=text,
        version=version,
        uri=uri,
        results=results,
        measured=measured,
        depth=settings.model.depth,
    )
    summary.write(content, directory / "summary.json")
    summary.show(content, progress.console)


def _prepare(directory: Path, progress: Progress) -> ResolvedRun:
    """Write the shards and the tasks' data; the resolved pretraining run."""
    paths = standard_library.sources()
    build(
        paths,
        directory / "shards",
        vocabulary_size=2048,
        sequence_length=256,
        held_out=HELD_OUT,
        progress=lambda stage, fraction: progress.update(fraction, stage),
    )
    standard_library.write_tasks(paths, HELD_OUT, directory / "tasks")
    shards, folder = json.dumps(str(directory / "shards")), json.dumps(str(directory / "pretrain"))
    return resolve_run(load_pretrain("tiny", [f"data.shards={shards}", f"run.dir={folder}"]))


def _task(team: str, base: str, folder: Path) -> Task:
    data = {split: folder / f"{team}-{split}.jsonl" for split in ("train", "validation")}
    return Task.model_validate({**TASKS[team], "team": team, "base": base, "data": data})
