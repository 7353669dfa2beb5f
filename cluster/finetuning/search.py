"""Settings of a hyperparameter search over a task."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from cluster.tasks.task import Task
from odeformer.section import Count, Section

OPEN = ("method", "depth")
OPEN_SECTIONS = ("adapter", "train")
"""Settings and sections that a search may draw; results would not be comparable across others."""
RESERVED = ("train.validate_every",)
"""Settings that the search sets itself."""
LONGEST_NAME = 50


Finite = Annotated[float, Field(allow_inf_nan=False)]


class Range(Section):
    """A range from ``low`` to ``high``, both included; it holds integers only if both bounds are integers."""

    low: int | Finite
    high: int | Finite
    log: bool = False
    """Draw uniformly on a logarithmic scale."""

    @model_validator(mode="after")
    def _goes_up(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low}: a logarithmic range must start above zero")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether it is a range of integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def examples(self) -> tuple[float, ...]:
        """Both bounds and, unless it is a range of integers, a value in between."""
        inner = () if self.is_whole else (self.low + (self.high - self.low) * 0.382,)
        return (self.low, self.high, *inner)

    def holds(self, value: Any) -> bool:
        """Whether the value could have been drawn."""
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
    """Settings of a search with Optuna's TPE sampler and median pruner.

    Once five trials have finished, a trial that is worse than their median at the same step is pruned.
    """

    space: dict[str, Among] = Field(min_length=1)
    """Range ``{low, high}`` or list of values for each searched setting, such as ``train.learning_rate``."""
    trials: Count = 12
    """Number of trials."""
    at_once: Count = 4
    """Maximum number of trials that are queued or running at a time."""
    validations: Count = 4
    """Number of validations per trial, at equal intervals."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the sampler."""

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether these values could have been drawn."""
        if values.keys() != self.space.keys():
            return False
        return all(
            among.holds(values[key])
            if isinstance(among, Range)
            else json.dumps(values[key]) in map(json.dumps, among)
            for key, among in self.space.items()
        )


class SearchedTask(Task):
    """A task with a search over some of its settings."""

    search: Search

    @model_validator(mode="after")
    def _space_fits(self) -> SearchedTask:
        if len(self.name) > LONGEST_NAME:
            raise ValueError(
                f"name: at most {LONGEST_NAME} characters, because trials are called <name>-trial-1"
            )
        task = self.plain()
        for key, among in self.search.space.items():
            section, _, name = key.partition(".")
            if (key not in OPEN and not (section in OPEN_SECTIONS and name)) or key in RESERVED:
                sections = ", ".join(f"{section}.…" for section in OPEN_SECTIONS)
                raise ValueError(f"search.space.{key}: a search may draw {', '.join(OPEN)}, {sections}")
            values = among.examples if isinstance(among, Range) else among
            if not values:
                raise ValueError(f"search.space.{key}: no values")
            for value in values:
                with_values(task, {key: value})
        return self

    def plain(self) -> Task:
        """The task without the search."""
        return Task.model_validate(self.model_dump(exclude={"search"}))


def with_values(task: Task, values: Mapping[str, Any]) -> Task:
    """The task with some settings replaced.

    Raises:
        ValueError: naming the key, for an unknown setting or an invalid value.
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
