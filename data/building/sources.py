"""What to build from: the sources that somebody names, each with its weight in the mixture."""

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

HUGGING_FACE = "hf:"
REMOTE = ("s3", "http", "https", "gs", "gcs", "az", "abfs", "abfss")
"""Where fsspec may fetch from. Whatever else looks like an address is refused: some would run commands."""

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):")


class TextSource(BaseModel):
    """One source of text.

    `path` is a file or a folder, an address (s3://, http(s)://, …), or `hf:` and the name or folder of
    a Hugging Face data set. `weight` is how often its training documents occur in an epoch: 0.3 keeps a
    fixed 30 % of them, 2.5 gives each two or three times; held-out documents occur once, whatever it is.
    `field` names the text in JSON lines, columns and tars' .json members; `split` and `config` choose
    within a Hugging Face data set.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Annotated[str, Field(min_length=1)]
    weight: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1.0
    field: Annotated[str, Field(min_length=1)] = "text"
    licence: str | None = None
    split: str = "train"
    config: str | None = None

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
            raise ValueError("hf: names no data set: give hf:NAME or hf:FOLDER")
        return self

    @property
    def is_hugging_face(self) -> bool:
        """Whether the library `datasets` reads it."""
        return self.path.startswith(HUGGING_FACE)

    @property
    def is_remote(self) -> bool:
        """Whether fsspec fetches its files."""
        return not self.is_hugging_face and "://" in self.path

    def beside(self, folder: Path) -> Self:
        """Return the source with a path that is relative to this folder."""
        if self.is_remote:
            return self
        prefix, path = (HUGGING_FACE, self.path[3:]) if self.is_hugging_face else ("", self.path)
        if prefix and not (folder / path).exists():
            return self  # a name on the hub
        return self.model_copy(update={"path": f"{prefix}{folder / path}"})


class Mixture(BaseModel):
    """A file of sources."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: Annotated[tuple[TextSource, ...], Field(min_length=1)]


def as_source(given: TextSource | Path | str) -> TextSource:
    """Return a source for a path or an address. Raises ValueError, in one line, for one that is refused."""
    if isinstance(given, TextSource):
        return given
    try:
        return TextSource(path=str(given))
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
