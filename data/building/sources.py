"""The sources that a dataset is built from, with their weights in the mixture."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

HUGGING_FACE = "hf:"
REMOTE = ("s3", "http", "https", "gs", "gcs", "az", "abfs", "abfss")
"""Protocols that fsspec may read from. All others are refused, since some would run commands."""

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):")


class TextSource(BaseModel):
    """A source of text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Annotated[str, Field(min_length=1)]
    """A file or folder, an address (s3://, http(s)://, …), or ``hf:`` with the name or folder of a Hugging
    Face dataset."""
    weight: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1.0
    """Average number of occurrences of its training documents per epoch: with 0.3 a fixed 30 % of them occur,
    with 2.5 each occurs two or three times. Held-out documents always occur once."""
    field: Annotated[str, Field(min_length=1)] = "text"
    """The field with the text in JSON lines, columns, and .json members of tar files."""
    licence: str | None = None
    """The license to note in the manifest."""
    split: str = "train"
    """The split of a Hugging Face dataset."""
    config: str | None = None
    """The configuration of a Hugging Face dataset."""

    @model_validator(mode="after")
    def _can_be_read(self) -> Self:
        scheme = _SCHEME.match(self.path)
        if "\0" in self.path:
            raise ValueError(f"{self.path!r} has a NUL character: correct the path")
        if scheme and not self.is_hugging_face:
            if scheme[1] not in REMOTE or not self.path.startswith(f"{scheme[1]}://") or "::" in self.path:
                raise ValueError(
                    f"{self.path} cannot be read: give a path, hf:NAME, or an address that begins with "
                    f"{', '.join(f'{name}://' for name in REMOTE)}"
                )
        elif self.path == HUGGING_FACE:
            raise ValueError("hf: names no dataset: give hf:NAME or hf:FOLDER")
        return self

    @property
    def is_hugging_face(self) -> bool:
        """Whether the source is read by the library ``datasets``."""
        return self.path.startswith(HUGGING_FACE)

    @property
    def is_remote(self) -> bool:
        """Whether the source's files are downloaded with fsspec."""
        return not self.is_hugging_face and "://" in self.path

    def beside(self, folder: Path) -> Self:
        """The source with a relative path taken as relative to ``folder``."""
        if self.is_remote:
            return self
        prefix, path = (HUGGING_FACE, self.path[3:]) if self.is_hugging_face else ("", self.path)
        if prefix and not (folder / path).exists():
            return self  # a name on the hub
        return self.model_copy(update={"path": f"{prefix}{folder / path}"})


class Mixture(BaseModel):
    """A list of sources, as in a mixture file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: Annotated[tuple[TextSource, ...], Field(min_length=1)]


def as_source(given: TextSource | Path | str) -> TextSource:
    """The source for a path or an address.

    Raises:
        ValueError: for one that is refused.
    """
    if isinstance(given, TextSource):
        return given
    try:
        return TextSource(path=str(given))
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
