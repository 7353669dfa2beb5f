"""A job's result: its metrics, and the name, tags and files of its version."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from cluster import registry
from cluster import tags as tag
from cluster.names import check_model_name, parse_reference
from cluster.promotion import task_gate
from cluster.promotion.task_gate import GateResult
from cluster.registry import run_output
from cluster.registry.ownership import Owner, owners
from cluster.runs.events import Event, LoggedEvent, logged
from cluster.tasks.task import Task
from cluster.tracking import runs, store

VERSION_FILE = "version.json"
"""File in a trained job's folder with the name, tags and files of its version."""


@dataclass(frozen=True)
class FinetuneResult:
    """A job's result; ``before`` and ``after`` are the validation metric before and after training."""

    team: str
    task: str
    metric: str
    before: float
    after: float
    adapter_model: str
    """Name of the registered model: an adapter, or a checkpoint for method ``full``."""
    adapter_version: str | None
    """``None`` if it is not registered: a search's trial, or a store that was unreachable, in which case
    ``odeformer models register`` can do it later."""
    base_version: str
    method: str
    depth: int
    """Depth N of evaluation."""
    gate: GateResult | None
    """The gate's result; ``None`` if the task has no gate."""
    too_long: dict[str, int] = field(default_factory=dict)
    """How many examples were cut, and how many left out, because of the sequence length; empty if none."""


def base_tags(base: registry.Version) -> dict[str, str]:
    """Tags that name the base of an adapter or a run."""
    return {
        tag.BASE_NAME: base.name,
        tag.BASE_VERSION: base.version,
        tag.BASE_DIGEST: base.tags[tag.DIGEST],
    }


class Reached(TypedDict):
    """Results that are kept as tags of the version."""

    depth: int
    metric: str
    score: float
    gate: GateResult | None


def read_scores(folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Metrics of the first and the last validation in a job's log, even if it was resumed in between."""
    validations = list(logged(folder, Event.VALIDATION))
    return _metrics(validations[0]), _metrics(validations[-1])


def read_too_long(folder: Path) -> dict[str, int]:
    """How many examples were ``cut`` and how many ``left_out``, from a job's log; empty if none were."""
    event = next(logged(folder, Event.TOO_LONG), None)
    return {} if event is None else {key: event[f"examples_{key}"] for key in ("cut", "left_out")}


def _metrics(validation: LoggedEvent) -> dict[str, float]:
    return {key.removeprefix("validation_"): value for key, value in validation.items()}


def model_name(task: Task, uri: str | None) -> str:
    """Name of the registered model whose versions are the task's results, ``<base>--<team>--<task>``.

    A model named in the form of earlier versions, ``<base>-<team>-<task>``, is kept if it only holds versions
    of this task.

    Raises:
        ValueError: for a task without an unambiguous name, or with one that is too long.
    """
    for key, name in (("team", task.team), ("name", task.name)):
        if "--" in name:
            raise ValueError(
                f"{key}: {name} has two hyphens in a row, which separate base, team and task in the "
                "name of a model: use one"
            )
    parts, uri = (parse_reference(task.base).name, task.team, task.name), store.tracking_uri(uri)
    with store.session(uri) as client:
        if owners(client, "-".join(parts)) == {Owner(task.team, task.name)}:
            return "-".join(parts)
    name = "--".join(parts)
    try:
        if task.trial is None:  # trials are not registered
            check_model_name(name)
    except ValueError:
        raise ValueError(
            f"name: the model would be called {name}, which has {len(name)} letters, at most 193: choose a "
            "shorter name"
        ) from None
    return name


def write_version_file(
    task: Task,
    base: registry.Version,
    folder: Path,
    name: str,
    files: str,
    trained: int,
    reached: Reached,
) -> None:
    """Write the name, tags and files of the job's future version to its folder.

    Args:
        name: name of the registered model.
        files: name of the subfolder with the version's files, ``adapter`` or ``model``.
        trained: number of trained parameters.
        reached: results to keep with the version.
    """
    tags = {
        tag.KIND: "checkpoint" if files == "model" else "adapter",
        tag.TEAM: task.team,
        tag.TASK: task.name,
        tag.METHOD: task.method,
        tag.TRAINED_PARAMETERS: str(trained),
    }

    if files == "model":
        sizes = (tag.PARAMETERS, tag.ORDINARY_PARAMETERS)
        tags |= {tag.PARENT: base.uri} | {key: base.tags[key] for key in sizes if key in base.tags}
    else:
        tags |= {tag.PARAMETERS: str(trained), **base_tags(base)}

    tags |= {
        tag.DEPTH: json.dumps(reached["depth"]),
        tag.METRIC: json.dumps(reached["metric"]),
        tag.SCORE: json.dumps(reached["score"]),
        tag.GATE: json.dumps(reached["gate"]),
    }
    content = {"name": name, "tags": tags, "files": files}
    runs.write_json(folder / VERSION_FILE, content)


def register_job(folder: Path, name: str | None = None, seconds: float = 0) -> registry.Version:
    """Register a trained job's model as a candidate, and apply its task's gate. Idempotent.

    Args:
        name: name of the registered model; the job's own when not given.

    Raises:
        ConnectionError: when the store could not be reached for that long.
    """
    content = json.loads((folder / VERSION_FILE).read_text(encoding="utf-8"))
    name, tags = name or content["name"], content["tags"]
    gate: GateResult | None = json.loads(tags.get(tag.GATE, "null"))
    files = folder / content["files"]
    version = run_output.register_run_output(folder, files, name, tags, seconds, first=gate is None)
    if gate is None:
        return version
    return task_gate.settle(version, runs.run_uri(folder), gate, json.loads(tags[tag.DEPTH]), folder)
