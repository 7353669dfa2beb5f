"""A task with a search: which of its settings are open, and between what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from cluster.tasks.task import Task
from odeformer.section import Count, Section

OPEN = ("method", "depth")
OPEN_SECTIONS = ("adapter", "train")
"""What a search may draw. The rest says what the task is, and results would not compare."""
ITS_OWN = ("train.validate_every",)
"""That it sets itself."""
LONGEST_NAME = 50


Finite = Annotated[float, Field(allow_inf_nan=False)]


class Range(Section):
    """From ``low`` to ``high``, both included; whole numbers where both are."""

    low: int | Finite
    high: int | Finite
    log: bool = False
    """Drawn evenly on a logarithmic scale."""

    @model_validator(mode="after")
    def _goes_up(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low}: a logarithmic range begins above zero")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether it is one of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def examples(self) -> tuple[float, ...]:
        """Both ends; of one that is not of whole numbers also one that is none."""
        inner = () if self.is_whole else (self.low + (self.high - self.low) * 0.382,)
        return (self.low, self.high, *inner)

    def holds(self, value: Any) -> bool:
        """Whether it could have been drawn."""
        kind = int if self.is_whole else float
        return type(value) is kind and self.low <= value <= self.high


def _kind(given: Any) -> str | None:
    if isinstance(given, dict | Range):
        return "range"
    return "values" if isinstance(given, list | tuple) else None


Among = Annotated[
    Annotated[Range, Tag("range")] | Annotated[tuple[Any, ...], Tag("values")],
    Discriminator(
        _kind,
        custom_error_type="range_or_values",
        custom_error_message="expected a range, {low: …, high: …}, or a list of values",
    ),
]


class Search(Section):
    """How the open settings are searched: by Optuna's TPE. Once five trials have got to their ends, those
    that are worse than the median of them was at the same step are stopped."""

    space: dict[str, Among] = Field(min_length=1)
    """By their keys, such as ``train.learning_rate``: a range, or a list of values."""
    trials: Count = 12
    at_once: Count = 4
    """Trials that are queued or run at a time."""
    validations: Count = 4
    """Of each trial, at equal distances."""
    seed: int = Field(default=0, ge=0, lt=2**32)

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether these could have been drawn."""
        if values.keys() != self.space.keys():
            return False
        return all(
            among.holds(values[key])
            if isinstance(among, Range)
            else json.dumps(values[key]) in map(json.dumps, among)
            for key, among in self.space.items()
        )


class SearchedTask(Task):
    """A task, and what is to be searched in it."""

    search: Search

    @model_validator(mode="after")
    def _space_fits(self) -> SearchedTask:
        if len(self.name) > LONGEST_NAME:
            raise ValueError(f"name: at most {LONGEST_NAME} letters: its trials are called <name>-trial-1")
        task = self.plain()
        for key, among in self.search.space.items():
            section, _, name = key.partition(".")
            if (key not in OPEN and not (section in OPEN_SECTIONS and name)) or key in ITS_OWN:
                sections = ", ".join(f"{section}.…" for section in OPEN_SECTIONS)
                raise ValueError(f"search.space.{key}: open to a search are {', '.join(OPEN)}, {sections}")
            values = among.examples if isinstance(among, Range) else among
            if not values:
                raise ValueError(f"search.space.{key}: no values")
            for value in values:
                with_values(task, {key: value})
        return self

    def plain(self) -> Task:
        """The task as it is without the search."""
        return Task.model_validate(self.model_dump(exclude={"search"}))


def with_values(task: Task, values: Mapping[str, Any]) -> Task:
    """The task with these in place of its own.

    Raises:
        ValueError: naming the key, for one that does not exist or a value that it cannot have.
    """
    content = task.model_dump(mode="json")
    for key, value in values.items():
        *sections, last = key.split(".")
        section: Any = content
        for name in sections:
            section = section.get(name)
            if not isinstance(section, dict):
                raise ValueError(f"search.space.{key}: a task has no such setting")
        section[last] = value
    try:
        return Task.model_validate(content)
    except ValidationError as error:
        drawn = ", ".join(f"{key} {value!r}" for key, value in values.items())
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"search.space: {drawn}: {message}") from None
