"""The identity of a run: the values that must not change for the run to be resumed, in ``run.dir/run.json``.

Every commit has a copy.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, TypedDict, cast

from cluster.checkpoints import folder
from cluster.names import Reference, absolute_name, is_registered, parse_reference
from odeformer.config import ModelConfig
from odeformer.files.atomic import new_file

FILE_NAME = "run.json"


class RunIdentity(TypedDict, total=False):
    """The values that must not change; older versions of this program recorded fewer."""

    model: Any
    """The shape, as :class:`~odeformer.config.ModelConfig` has it."""
    init: str | None
    data: str | list[str]
    """Digest of the shards' manifest; a list of those of the sources, if the run has a mixture of sources."""
    global_batch: int
    seeds: list[int]
    start: int
    optimizer: str
    teacher: dict[str, Any] | None
    """The section ``teacher``, and the digest of the teacher's files."""
    init_solver: str | None
    """Solver of the initial weights. It is recorded so that they need not be read again; it may change."""


OLD_DEFAULTS = {"start": 0, "optimizer": "adamw", "teacher": None}
"""Values of those that older versions did not record."""
INIT_SOLVER: Final = "init_solver"


def read(run: Path) -> RunIdentity | None:
    """The identity that is recorded in a run's folder, or in its newest commit if ``run.json`` is lost.

    Raises:
        ValueError: if ``run.json`` is damaged, and no commit has a copy.
    """
    recorded = _read(run / FILE_NAME)
    if recorded is not None:
        return cast(RunIdentity, recorded)
    commits = folder.commits(run / "checkpoints")
    for commit in reversed(commits):
        copy = (_read(commit / folder.MANIFEST) or {}).get("run")
        if copy:
            return cast(RunIdentity, copy)
    if commits and (run / FILE_NAME).exists():
        raise ValueError(
            f"{run / FILE_NAME} is damaged, and no checkpoint in {run} has a copy: choose another run.dir, "
            "or remove that file if the checkpoints are those of this run"
        )
    return None


def write(run: Path, identity: RunIdentity) -> None:
    """Record an identity in a run's folder, which then belongs to this run."""
    if _read(run / FILE_NAME) != identity:
        with new_file(run / FILE_NAME) as temporary:
            temporary.write_text(json.dumps(identity, indent=2), encoding="utf-8")


def differences(recorded: RunIdentity, ours: RunIdentity) -> list[str]:
    """Names of the values in which two runs differ.

    The data may, if ours are a mixture of sources, which is the list of their digests: then a new part of the
    run begins.
    """
    theirs = {**OLD_DEFAULTS, **recorded, "model": _completed(recorded.get("model"))}
    own = {**ours, "model": _completed(ours.get("model"))}
    may = {INIT_SOLVER, "data"} if isinstance(ours.get("data"), list) else {INIT_SOLVER}
    return [key for key, value in own.items() if key not in may and theirs.get(key) != value]


def initial_model(recorded: RunIdentity, init: str) -> tuple[str, ModelConfig, str] | None:
    """The recorded properties of the initial weights ``init``: version or folder, shape and solver.

    ``None`` if other weights are recorded, or too little. An alias stands for the recorded version, wherever
    it has been moved meanwhile.
    """
    known, solver = recorded.get("init"), recorded.get(INIT_SOLVER)
    if not known or not solver or not _is_of(known, init):
        return None
    try:
        return known, ModelConfig.model_validate(recorded["model"]), solver
    except ValueError:  # recorded by another version of this program
        return None


def recorded_teacher(recorded: RunIdentity, teacher: str) -> str:
    """The recorded version that the alias ``teacher`` stands for, or else ``teacher`` itself."""
    known = (recorded.get("teacher") or {}).get("model")
    return known if known and _is_of(known, teacher) else teacher


def _is_of(known: str, init: str) -> bool:
    if known == absolute_name(init):
        return True
    reference = parse_reference(init) if is_registered(init) else Reference("", None, None)
    return reference.alias is not None and known.startswith(f"models:/{reference.name}/")


def _completed(model: Any) -> Any:
    """A recorded shape with the defaults of settings that its version of this program did not have."""
    try:
        return ModelConfig.model_validate(model).model_dump(mode="json")
    except ValueError:
        return model


def _read(file: Path) -> dict[str, Any] | None:
    """The object in a JSON file, unless that is missing or damaged."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None
