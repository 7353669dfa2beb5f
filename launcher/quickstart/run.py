"""The quick start: the same calls as the other commands make, on text that every machine has."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import ExitStack
from pathlib import Path

from launcher.terminal.console import make_console
from launcher.terminal.progress import Progress

HELD_OUT = 0.1
TASKS = {
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
"""The two teams' tasks; the rest of each comes from where their data is written."""


MARK = ".quickstart"
"""A file in every folder of a quick start; without it a folder is somebody else's."""


def _make_room(directory: Path) -> None:
    if directory.exists() and not (directory / MARK).is_file() and any(directory.iterdir()):
        raise ValueError(f"{directory} holds something other than a quick start: choose another --dir")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MARK).touch()
    for part in ("shards", "pretrain", "tasks", "finetune"):
        shutil.rmtree(directory / part, ignore_errors=True)


def run(directory: Path) -> None:
    """Shards, pretraining, registry, two fine-tuning jobs, and one screen that sums them up."""
    started = time.monotonic()
    console = make_console()
    progress = Progress(console)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the memory measurement's profiler announces itself
    _make_room(directory)

    with progress.stage("libraries"):
        from cluster import pretrain as pretraining
        from cluster import registry
        from cluster.connection.connect import ray_cluster
        from cluster.registry import aliases
        from cluster.resolve import resolve_run
        from cluster.tasks.task import Task
        from cluster.tracking import store
        from data.shards import build
        from launcher.configuration.load import load_pretrain
        from launcher.finetunes import run_tasks
        from launcher.quickstart import standard_library
        from launcher.quickstart import summary as report
        from launcher.terminal.pretrain_watcher import PretrainWatcher

    with progress.stage("shards from Python's standard library"):
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
        resolved = resolve_run(
            load_pretrain(
                "tiny",
                [
                    f"data.shards={json.dumps(str(directory / 'shards'))}",
                    f"run.dir={json.dumps(str(directory / 'pretrain'))}",
                ],
            )
        )
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
        aliases.move(version, uri, why="the quick start")  # other code may have made an older one
        tasks = [
            Task.model_validate(
                {
                    **task,
                    "team": team,
                    "base": f"models:/{version.name}@champion",
                    "data": {s: directory / "tasks" / f"{team}-{s}.jsonl" for s in ("train", "validation")},
                }
            )
            for team, task in TASKS.items()
        ]
        results = run_tasks(tasks, directory / "finetune", uri, progress)
        with progress.stage("stopping Ray"):
            cluster.close()

    with progress.stage("cost of each depth, memory of each gradient method"):
        loaded = registry.load(version.uri, uri)
        text = report.validation_text(settings, loaded.tokenizer)
        measured = report.measure(loaded.model, sorted(watcher.validations[-1]), progress)
    summary = report.summarise(
        seconds=time.monotonic() - started,
        validations=watcher.validations,
        text=text,
        version=version,
        uri=uri,
        results=results,
        measured=measured,
        depth=settings.model.depth,
    )
    report.write(summary, directory / "summary.json")
    report.show(summary, console)
