"""A task with a search: which of its settings are open, and between what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError, model_validator

from cluster.finetuning.task import Task
from odeformer.config import Count, Section

OPEN = ("method", "depth")
OPEN_SECTIONS = ("adapter", "train")
"""What a search may draw. The rest says what the task is, and results would not compare."""
LONGEST_NAME = 50


class Range(Section):
    """From ``low`` to ``high``, both included; whole numbers where both are."""

    low: int | float
    high: int | float
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


class Search(Section):
    """How the open settings are searched: by Optuna's TPE. Once five trials have got to their ends, those
    that are worse than the median of them was at the same step are stopped."""

    space: dict[str, Range | tuple[Any, ...]] = Field(min_length=1)
    """By their keys, such as ``train.learning_rate``: a range, or a list of values."""
    trials: Count = 12
    at_once: Count = 4
    """Trials that are queued or run at a time."""
    validations: Count = 4
    """Of each trial, at equal distances."""
    seed: int = 0

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether these could have been drawn."""
        if values.keys() != self.space.keys():
            return False
        return all(
            among.low <= values[key] <= among.high if isinstance(among, Range) else values[key] in among
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
            if key not in OPEN and key.partition(".")[0] not in OPEN_SECTIONS:
                sections = ", ".join(f"{section}.…" for section in OPEN_SECTIONS)
                raise ValueError(f"search.space.{key}: open to a search are {', '.join(OPEN)}, {sections}")
            values = (among.low, among.high) if isinstance(among, Range) else among
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
        section = content
        for name in sections:
            section = section.get(name)
            if not isinstance(section, dict):
                raise ValueError(f"search.space.{key}: a task has no such setting")
        section[last] = value
    try:
        return Task.model_validate(content)
    except ValidationError as error:
        drawn = ", ".join(f"{key} {value!r}" for key, value in values.items())
        raise ValueError(f"search.space: {drawn}: {error.errors()[0]['msg']}") from None
