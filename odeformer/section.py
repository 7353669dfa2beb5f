"""The base class of all settings, common bounds, and the lookup of names in registries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Entry = TypeVar("Entry")

MOST_LAYERS = 4096
"""Maximum of a model depth D; more than this and more than 16 D layers are never run."""
# The bounds are far above what anybody has trained and far below what a typing error could ask of a machine.
Layers = Annotated[int, Field(ge=1, le=MOST_LAYERS)]
Width = Annotated[int, Field(ge=1, le=2**20)]
Count = Annotated[int, Field(ge=1, le=2**24)]


class Section(BaseModel):
    """A group of settings: immutable; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    removed: ClassVar[Mapping[str, object]] = {}
    """Settings of earlier versions with their defaults: files in which they have these are still read."""

    @model_validator(mode="before")
    @classmethod
    def _without_removed(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {
            key: value for key, value in values.items() if key not in cls.removed or value != cls.removed[key]
        }


def look_up(what: str, name: str, registry: Mapping[str, Entry]) -> Entry:
    """The entry of a registry.

    Raises:
        ValueError: for an unknown name, listing the known ones.
    """
    if name not in registry:
        raise ValueError(f"{what} {name!r} is unknown; there are: {', '.join(registry)}")
    return registry[name]


def known(find: Callable[[str], object]) -> AfterValidator:
    """A validator for settings that hold a name which ``find`` looks up."""

    def check(name: str) -> str:
        find(name)
        return name

    return AfterValidator(check)
