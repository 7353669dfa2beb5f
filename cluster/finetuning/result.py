"""What a job made: its files, its version's name and tags, and what it reached."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import registry
from cluster.promotion import task_gate
from cluster.registry import from_run
from cluster.runs.events import FILE_NAME, Event, events_from
from cluster.tasks.task import Task
from cluster.tracking import runs

VERSION_FILE = "version.json"
"""In a job's folder, once it has been trained: the name, tags and files of the version that it made."""


@dataclass(frozen=True)
class FinetuneResult:
    """What a job reached: ``before`` and ``after`` are the validation metric, untuned and tuned, at N."""

    team: str
    task: str
    metric: str
    before: float
    after: float
    adapter_model: str
    """The registered model: an adapter, or of method ``full`` a checkpoint."""
    adapter_version: str | None
    """None: trained, not registered. ``odeformer models register`` of the job's folder does it later. A
    search's trials are not."""
    base_version: str
    method: str
    depth: int
    """N at which it was scored."""
    gate: dict[str, Any] | None
    """The task's, with the ``value`` of its metric, and whether it was ``reached``: the version is champion
    then. ``None`` where the champion has not been asked, as nothing was registered."""


def read_scores(folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """The first and the last validation in a job's log: also of a job that was resumed in between."""
    events, _ = events_from(folder / FILE_NAME, 0)
    found = [event for event in events if event["event"] == Event.VALIDATION]
    named = [{key.removeprefix("validation_"): value for key, value in event.items()} for event in found]
    return named[0], named[-1]


def model_name(task: Task, base: registry.Version) -> str:
    """The registered model that a task's results are versions of."""
    return f"{base.name}-{task.team}-{task.name}"


def write_version_file(
    task: Task, base: registry.Version, folder: Path, files: str, trained: int, result: dict[str, Any]
) -> None:
    """Leave in a job's folder what its version in the registry is to be.

    Args:
        files: the folder in it that holds the version's files, ``adapter`` or ``model``.
        trained: parameters that were trained.
        result: numbers and words to keep with the version.
    """
    of_a_base = {
        registry.BASE_NAME: base.name,
        registry.BASE_VERSION: base.version,
        registry.BASE_DIGEST: base.tags[registry.DIGEST],
    }
    sizes = ("odeformer.parameters", "odeformer.ordinary_parameters")
    as_model = {"odeformer.parent": base.uri} | {key: base.tags[key] for key in sizes if key in base.tags}
    is_model = files == "model"
    tags = {
        "odeformer.kind": "checkpoint" if is_model else "adapter",
        "odeformer.team": task.team,
        "odeformer.task": task.name,
        "odeformer.method": task.method,
        "odeformer.trained_parameters": str(trained),
        **(as_model if is_model else {"odeformer.parameters": str(trained), **of_a_base}),
        **{f"odeformer.{key}": json.dumps(value) for key, value in result.items()},
    }
    content = {"name": model_name(task, base), "tags": tags, "files": files}
    runs.write_json(folder / VERSION_FILE, content)


def register_run(folder: Path, name: str | None = None, seconds: float = 0) -> registry.Version:
    """Register what a job made, under its own name or another; done again, no second version.

    It is the candidate; its task's gate, if it has one, says whether it is champion.

    Raises:
        ConnectionError: when the store could not be reached for so many seconds.
    """
    content = json.loads((folder / VERSION_FILE).read_text())
    name, tags = name or content["name"], content["tags"]
    gate, depth = (json.loads(tags.get(f"odeformer.{key}", "null")) for key in ("gate", "depth"))
    files = folder / content["files"]
    version = from_run.register(folder, files, name, tags, seconds, first=gate is None)
    return version if gate is None else task_gate.settle(version, runs.run_uri(folder), gate, depth, folder)
