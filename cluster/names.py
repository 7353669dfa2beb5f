"""The allow-list for everything that becomes a path, a registry's name or one of Ray's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

_NAME = "[A-Za-z0-9][A-Za-z0-9_-]{0,62}"
# An adapter is called <base>-<team>-<task>.
_MODEL = "[A-Za-z0-9][A-Za-z0-9_-]{0,190}"

Name = Annotated[str, StringConstraints(pattern=f"^{_NAME}$")]
"""Of a run, a job, a task, a team, a model."""


@dataclass(frozen=True)
class Reference:
    """The parts of ``models:/<name>@<alias>`` or ``models:/<name>/<version>``."""

    name: str
    alias: str | None
    version: str | None


def parse_reference(model: str) -> Reference:
    """What such a text refers to.

    Raises:
        ValueError: for any other text.
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
    """Refuse a name that no ``models:/<name>`` could have.

    Raises:
        ValueError: with what a name may be.
    """
    if not re.fullmatch(_MODEL, name):
        raise ValueError(
            f"model name {name[:200]!r}: letters, digits, - and _ only, not first - or _, at most 191"
        )
