"""A request for a fine-tuning job as a task of the pool."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.door.files import Files
from cluster.door.form import EXTENSION, NOT_GIVEN
from cluster.door.refusals import bad_request, bad_settings, bad_task
from cluster.names import is_registered
from cluster.pool import Pool
from cluster.registry.aliases import CHAMPION
from cluster.tasks.task import Task, TaskTrain, read_sets
from data.tasks.rows import read_rows


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Hyperparameters(_Body):
    """OpenAI's settings; they become ``train.steps``, ``global_batch`` and ``learning_rate``."""

    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    learning_rate_multiplier: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    n_epochs: Annotated[int, Field(ge=1, le=1000)] | Literal["auto"] = "auto"


class PreferenceHyperparameters(Hyperparameters):
    """The same with β of direct preference optimization, which becomes ``preference.beta``."""

    beta: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"


class Supervised(_Body):
    """The settings of method ``supervised``."""

    hyperparameters: Hyperparameters | None = None


class Preference(_Body):
    """The settings of method ``dpo``."""

    hyperparameters: PreferenceHyperparameters | None = None


class Method(_Body):
    """OpenAI's method: ``dpo`` stands for kind ``preference``. Our own is ``odeformer.method``."""

    type: Literal["supervised", "dpo"] = "supervised"
    supervised: Supervised | None = None
    dpo: Preference | None = None


class JobRequest(_Body):
    """The body of ``POST /v1/fine_tuning/jobs``."""

    model: str
    """The base: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``; ``NAME`` is the champion of that name."""
    training_file: str
    validation_file: str | None = None
    suffix: str | None = None
    """Name of the task. Default: one that follows from the request."""
    seed: int | None = None
    hyperparameters: Hyperparameters | None = None
    method: Method | None = None
    metadata: dict[str, str] | None = None
    odeformer: dict[str, Any] = Field(default_factory=dict)
    """All other settings of a :class:`~cluster.tasks.task.Task`."""

    @property
    def hyper(self) -> Hyperparameters:
        """The hyperparameters, in whichever of the two places they are given."""
        method = self.method and (self.method.dpo or self.method.supervised)
        return (method and method.hyperparameters) or self.hyperparameters or Hyperparameters()


def create(pool: Pool, files: Files, team: str, body: JobRequest, repeat_key: str | None) -> str:
    """Queue the job of a request; its id in the pool. The same request again is the same job.

    Args:
        repeat_key: what tells a repeated request from a new one; when not given, all that it says.

    Raises:
        ApiError: naming the field that is wrong.
    """
    said = json.dumps(body.model_dump(mode="json"), sort_keys=True) if repeat_key is None else repeat_key
    token = hashlib.sha256(f"{team}\n{said}".encode()).hexdigest()
    paths = {
        field: _path(files, team, given, field)
        for field in ("training_file", "validation_file")
        if (given := getattr(body, field)) is not None
    }
    task = _task_of(body, team, body.suffix or f"ft-{token[:12]}", paths)
    for param, model in (("model", task.base), (f"{EXTENSION}.preference.parent", task.preference.parent)):
        if model is not None and not pool.may_start_from(model, team):
            raise bad_request(f"{param}: there is no model {model[:200]!r}", param, "model_not_found")
    try:
        if isinstance(body.hyper.n_epochs, int):
            task = _with_epochs(task, body.hyper.n_epochs)
        return pool.submit(task, token=token)
    except (ValueError, FileNotFoundError) as error:
        raise bad_task(error, {str(path): field for field, path in reversed(paths.items())}) from None


def _path(files: Files, team: str, file_id: str, field: str) -> Path:
    path = files.path(team, file_id)
    if path is None:
        raise bad_request(f"{field}: there is no file {file_id[:100]!r}", field)
    return path


def _task_of(body: JobRequest, team: str, name: str, paths: dict[str, Path]) -> Task:
    settings = dict(body.odeformer)
    data = settings.pop("data", {})
    train = settings.pop("train", {})
    preference = settings.get("preference", {})
    for key, section in (("data", data), ("train", train), ("preference", preference)):
        if not isinstance(section, dict):
            raise bad_request(f"{EXTENSION}.{key}: settings by name are expected", f"{EXTENSION}.{key}")
    taken = [key for key in NOT_GIVEN if key in settings] + [
        f"data.{key}" for key in ("train", "validation") if key in data
    ]
    if taken:
        raise bad_request(
            f"{EXTENSION}.{taken[0]}: is not given here: the team is the key's, and there are fields "
            "for name, base, metadata and files",
            f"{EXTENSION}.{taken[0]}",
        )
    hyper, given = body.hyper, dict[str, Any]()
    if isinstance(hyper.batch_size, int):
        given["global_batch"] = hyper.batch_size
    if isinstance(hyper.learning_rate_multiplier, float):
        given["learning_rate"] = hyper.learning_rate_multiplier * TaskTrain().learning_rate
    if body.seed is not None:
        given["seed"] = body.seed
    if isinstance(beta := getattr(hyper, "beta", None), float):
        settings["preference"] = {"beta": beta, **preference}
    content = {
        "kind": _kind(body, paths["training_file"]),
        **settings,
        "name": name,
        "team": team,
        "base": body.model if is_registered(body.model) else f"models:/{body.model}@{CHAMPION}",
        "data": {
            **data, "train": paths["training_file"], "validation": paths.get("validation_file")
        },
        "train": {**given, **train},
        "metadata": body.metadata or {},
    }  # fmt: skip
    try:
        return Task.model_validate(content)
    except ValidationError as error:
        raise bad_settings(error) from None


def _kind(body: JobRequest, path: Path) -> str:
    """The kind of task that a request is for, if it does not say so."""
    if body.method is not None and body.method.type == "dpo":
        return "preference"
    fields = next(read_rows(path, (), "train")).fields
    if "messages" in fields:
        return "chat"
    return "preference" if {"chosen", "rejected"} <= set(fields) else "completion"


def _with_epochs(task: Task, epochs: int) -> Task:
    """The task with as many steps as see every example so often.

    Raises:
        ValueError, FileNotFoundError: for unusable data.
    """
    try:
        examples = len(read_sets(task).train)
    except ValueError as error:
        raise ValueError(f"data: {error}") from None
    steps = math.ceil(epochs * examples / task.train.global_batch)
    return task.model_copy(update={"train": task.train.model_copy(update={"steps": steps})})
