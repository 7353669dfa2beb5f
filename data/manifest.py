"""The manifest of a data folder: its contents, with all sizes and digests."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

FILE_NAME = "manifest.json"
FORMAT_VERSION: Final = 2

SplitName = Literal["train", "validation"]

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ShardName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.tar$")]
"""A shard's file name. Manifests are untrusted, so it can neither leave the folder nor look like a command or
an address to webdataset."""

# Fields that only builds with filters have are omitted otherwise, so that the digests of other datasets do
# not change.
_Unless0 = Annotated[NonNegativeInt, Field(exclude_if=lambda value: value == 0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Member(NamedTuple):
    """A part of a shard's tar file, including headers and padding, that can be read and checked by itself.

    The members of a shard follow one another from the first byte on; after the last one comes the end mark
    of the archive.
    """

    bytes: PositiveInt
    sequences: PositiveInt
    sha256: Digest


class Shard(_Strict):
    """A tar file of sequences, with its size, digest and members."""

    name: ShardName
    bytes: PositiveInt
    sha256: Digest
    members: Annotated[tuple[Member, ...], Field(min_length=1)]

    @cached_property
    def sequences(self) -> int:
        """Number of sequences in all members."""
        return sum(member.sequences for member in self.members)

    @model_validator(mode="after")
    def _members_fit(self) -> Self:
        total = sum(member.bytes for member in self.members)
        if total > self.bytes:
            raise ValueError(f"members take {total} bytes, the shard has {self.bytes}")
        return self


class Split(_Strict):
    """The training or validation part of a dataset."""

    documents: PositiveInt
    bytes: PositiveInt
    """UTF-8 bytes of the documents' texts."""
    tokens: PositiveInt
    """Tokens of the whole stream, including one end-of-text per document and the dropped tail."""
    sequences: PositiveInt
    gzip_bytes: PositiveInt | None
    """Size of the concatenated documents after gzip at level 9, for validation only."""
    shards: tuple[Shard, ...]

    @model_validator(mode="after")
    def _shards_add_up(self) -> Self:
        total = sum(shard.sequences for shard in self.shards)
        if total != self.sequences:
            raise ValueError(f"shards hold {total} sequences, the split {self.sequences}")
        return self


class Filters(_Strict):
    """The texts that a build leaves out, besides empty ones and exact duplicates."""

    min_bytes: PositiveInt | None = None
    """Minimum UTF-8 bytes of a text."""
    max_bytes: PositiveInt | None = None
    """Maximum UTF-8 bytes of a text."""
    quality: bool = False
    """Whether texts must pass the quality rules of ``data.building.filters``."""
    near_duplicates: Annotated[float, Field(gt=0, le=1)] | None = None
    """Similarity from which on two texts are near duplicates, of which one is kept."""


class Source(_Strict):
    """An input of a build, and counts of its documents.

    ``documents``, ``duplicates``, ``empty``, ``near_duplicates`` and ``filtered`` add up to all texts of the
    source.
    """

    path: str
    """The name of the source, without the folders above it."""
    bytes: NonNegativeInt
    """Bytes of the files as stored, or of a Hugging Face dataset's texts."""
    sha256: Digest
    """Digest of the file; or of the sorted lines "<file digest>  <path in the folder>\\n", as ``sha256sum``
    prints them; or of such lines for a Hugging Face dataset's shards, whose digest is that of their texts'
    digests."""
    licence: str | None = None
    """The license, as stated by the user."""
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Average number of occurrences of a training document per epoch."""
    documents: NonNegativeInt = 0
    """Number of distinct texts that no earlier source has."""
    held_out: NonNegativeInt = 0
    """Number of these texts that are in the validation split."""
    duplicates: NonNegativeInt = 0
    """Number of exact duplicates of other texts in this source or an earlier one."""
    empty: NonNegativeInt = 0
    near_duplicates: _Unless0 = 0
    """Number of texts left out as near duplicates."""
    filtered: Annotated[dict[str, NonNegativeInt], Field(exclude_if=lambda value: not value)] = {}
    """Number of texts left out by a filter, by the first rule that they broke."""
    train: NonNegativeInt = 0
    """Number of occurrences in training, with ``weight`` taken into account."""
    train_bytes: NonNegativeInt = 0
    """UTF-8 bytes of these occurrences."""

    @property
    def left_out(self) -> dict[str, int]:
        """The number of texts that each filter left out."""
        return {**self.filtered, "near_duplicates": self.near_duplicates}


class Manifest(_Strict):
    """The identity of a dataset: two equal manifests give the same batches."""

    format_version: Literal[2]
    sequence_length: PositiveInt
    vocabulary_size: PositiveInt
    end_of_text: NonNegativeInt
    """The token after each document, which never occurs inside one and thus marks where documents begin."""
    dtype: Literal["uint16", "uint32"]
    tokenizer_sha256: Digest
    seed: int
    held_out: float
    filters: Annotated[Filters | None, Field(exclude_if=lambda value: value is None)] = None
    sources: tuple[Source, ...]
    splits: dict[SplitName, Split]

    @model_validator(mode="after")
    def _splits_are_whole(self) -> Self:
        if set(self.splits) != {"train", "validation"}:
            raise ValueError(f"splits are {sorted(self.splits)}, expected train and validation")
        names = [shard.name for split in self.splits.values() for shard in split.shards]
        if len(set(names)) != len(names):
            raise ValueError("two shards have the same name")
        return self

    @property
    def sequence_bytes(self) -> int:
        """Bytes of a sequence in a shard."""
        return (self.sequence_length + 1) * (2 if self.dtype == "uint16" else 4)

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def load_manifest(path: Path) -> Manifest:
    """Read the manifest of a data folder.

    Args:
        path: the folder, or its manifest.json.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged.
    """
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist: give a folder made by odeformer data build")
    try:
        fields = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"{file} is not valid JSON: rebuild the data") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{file} holds {type(fields).__name__}, not an object: rebuild the data")
    if fields.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{file} has format version {fields.get('format_version')!r}, this program reads "
            f"{FORMAT_VERSION}: rebuild the data"
        )
    try:
        return Manifest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        value = repr(first["input"])
        shown = value if len(value) <= 80 else value[:77] + "..."
        raise ValueError(
            f"{file} is not a valid manifest: {place} is {shown} ({first['msg']}): rebuild the data"
        ) from None
