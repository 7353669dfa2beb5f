"""The kinds of tasks: what their examples are, and what they are scored by.

To add one, write a module with a function that reads its examples and give it an entry in ``KINDS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Literal, cast

from pydantic import AfterValidator

from data.tasks.example import Example

Read = Callable[[Path, str, str, str], list[Example]]
"""``read(path, prompt, completion, split)``: the examples of a file or a folder. The two templates are filled
with each row's fields; ``split`` is ``train`` or ``validation``."""


@dataclass(frozen=True)
class TaskKind:
    """An entry of ``KINDS``."""

    path: str
    """``module:function`` of its :data:`Read`, imported when examples are first read."""
    labelled: bool = False
    """Whether a completion is one of a few labels, which the training examples show all of."""

    @property
    def score(self) -> Literal["loss", "accuracy"]:
        """What a result is, where the task does not say."""
        return "accuracy" if self.labelled else "loss"

    @property
    def read(self) -> Read:
        """The function that reads its examples."""
        return cast(Read, resolve_name(self.path))


KINDS = {
    "completion": TaskKind("data.tasks.tables:read_table"),
    "classification": TaskKind("data.tasks.tables:read_table", labelled=True),
    "language_model": TaskKind("data.tasks.texts:read_texts"),
}


def kind_named(name: str) -> TaskKind:
    """The kind of task of that name.

    Raises:
        ValueError: naming the kinds there are.
    """
    if name not in KINDS:
        raise ValueError(f"kind {name!r} is unknown; there are: {', '.join(KINDS)}")
    return KINDS[name]


def _known(name: str) -> str:
    kind_named(name)
    return name


KindName = Annotated[str, AfterValidator(_known)]
"""A key of ``KINDS``, as settings have it."""
