"""Allowed names of runs, jobs, tasks, teams and models, which become paths and names in Ray and MLflow."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

from odeformer.files.user import user_name

SCHEME = "models:/"
"""The beginning of every reference to a registered model, by which MLflow knows it, too."""
_NAME = "[A-Za-z0-9][A-Za-z0-9_-]{0,62}"
# Unity Catalog's names have three parts, <catalog>.<schema>.<name>.
_SCHEMA = f"(?:{_NAME}\\.{_NAME}\\.)?"
# An adapter is called <base>--<team>--<task>.
_MODEL = _SCHEMA + "[A-Za-z0-9][A-Za-z0-9_-]{0,192}"

ModelName = Annotated[str, StringConstraints(pattern=f"^{_SCHEMA}{_NAME}$")]
"""Name of a model that a run registers, of one part or of three."""
Name = Annotated[str, StringConstraints(pattern=f"^{_NAME}$")]
"""Name of a run, a job, a task or a team."""


@dataclass(frozen=True)
class Reference:
    """The parts of ``models:/<name>@<alias>`` or ``models:/<name>/<version>``."""

    name: str
    alias: str | None
    version: str | None


def parse_reference(model: str) -> Reference:
    """Parse a model reference.

    Raises:
        ValueError: for anything else.
    """
    match = re.fullmatch(f"{SCHEME}({_MODEL})(?:@({_NAME})|/([0-9]{{1,9}}))", model)
    if match is None:
        raise ValueError(
            f"model {model[:200]!r}: expected models:/<name>@<alias> or models:/<name>/<version>"
        )
    return Reference(*match.groups())


def is_registered(model: str) -> bool:
    """Whether a model is named as in the registry, ``models:/…``, and not by its folder."""
    return model.startswith(SCHEME)


def absolute_name(model: str) -> str:
    """The name of a model, valid in any working directory: that of a folder becomes an absolute path."""
    return model if is_registered(model) else str(Path(model).absolute())


def _checked_reference(model: str) -> str:
    parse_reference(model)
    return model


ModelReference = Annotated[str, AfterValidator(_checked_reference)]
"""``models:/<name>@<alias>`` or ``models:/<name>/<version>``."""


def check_model_name(name: str) -> None:
    """Check a name for use in ``models:/<name>``.

    Raises:
        ValueError: if it is invalid, with the rule.
    """
    if not re.fullmatch(_MODEL, name) or is_history(name):
        raise ValueError(
            f"model name {name[:200]!r}: letters, digits, - and _ only, not first - or _, at most 193; "
            "also <catalog>.<schema>.<name>, not with __history at its end"
        )


def history_of(name: str) -> str:
    """Name of the registered model that is the log of another model's champion."""
    return f"{name}__history" if "." in name else f"{name}.history"


def is_history(name: str) -> bool:
    """Whether a registered model is the log of another one's champion."""
    return name.endswith("__history" if name.count(".") == 2 else ".history")


def check_team(team: str) -> None:
    """Check a team's name.

    Raises:
        ValueError: if it is invalid, with the rule.
    """
    if not re.fullmatch(_NAME, team) or "--" in team:
        raise ValueError(
            f"team {team[:200]!r}: letters, digits, - and _ only, not first - or _, at most 63, "
            "no two hyphens in a row"
        )


def who() -> str:
    """The MLflow account or the user that runs this process, ``@`` the machine's name, for histories."""
    return f"{os.environ.get('MLFLOW_TRACKING_USERNAME') or user_name()}@{socket.gethostname()}"
