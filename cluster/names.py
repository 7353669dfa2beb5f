"""Allowed names of runs, jobs, tasks, teams and models, which become paths and names in Ray and MLflow."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

from odeformer.files.user import user_name

_NAME = "[A-Za-z0-9][A-Za-z0-9_-]{0,62}"
# An adapter is called <base>--<team>--<task>.
_MODEL = "[A-Za-z0-9][A-Za-z0-9_-]{0,192}"

Name = Annotated[str, StringConstraints(pattern=f"^{_NAME}$")]
"""Name of a run, a job, a task, a team or a model."""


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
    match = re.fullmatch(f"models:/({_MODEL})(?:@({_NAME})|/([0-9]{{1,9}}))", model)
    if match is None:
        raise ValueError(
            f"model {model[:200]!r}: expected models:/<name>@<alias> or models:/<name>/<version>"
        )
    return Reference(*match.groups())


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
    if not re.fullmatch(_MODEL, name):
        raise ValueError(
            f"model name {name[:200]!r}: letters, digits, - and _ only, not first - or _, at most 193"
        )


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
