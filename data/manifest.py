"""The manifest: what a folder of shards holds, with every size and digest."""

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
# One allow-list for names that come from a file we did not write: no folders, no leading dot or
# dash, nothing that webdataset's opener could take for a command or an address.
ShardName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.tar$")]


# What only a build with filters has is not written without: the digest of other data sets stays the same.
_Unless0 = Annotated[NonNegativeInt, Field(exclude_if=lambda value: value == 0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Member(NamedTuple):
    """A piece of a tar file, headers and padding included, that can be read and checked by itself.

    The pieces of a shard lie one behind the other from its first byte on; what is behind the last one
    is the end mark of the archive.
    """

    bytes: PositiveInt
    sequences: PositiveInt
    sha256: Digest


class Shard(_Strict):
    """One tar file: its size in bytes, its digest, and the pieces with the sequences in it."""

    name: ShardName
    bytes: PositiveInt
    sha256: Digest
    members: Annotated[tuple[Member, ...], Field(min_length=1)]

    @cached_property
    def sequences(self) -> int:
        """In all members."""
        return sum(member.sequences for member in self.members)

    @model_validator(mode="after")
    def _members_fit(self) -> Self:
        total = sum(member.bytes for member in self.members)
        if total > self.bytes:
            raise ValueError(f"members take {total} bytes, the shard has {self.bytes}")
        return self


class Split(_Strict):
    """One side of the corpus.

    `bytes` counts the UTF-8 bytes of the documents' texts. `tokens` counts the whole token stream:
    one end-of-text per document and the dropped tail included. `gzip_bytes` is the size of the
    documents, joined, under gzip level 9 (validation only).
    """

    documents: PositiveInt
    bytes: PositiveInt
    tokens: PositiveInt
    sequences: PositiveInt
    gzip_bytes: PositiveInt | None
    shards: tuple[Shard, ...]

    @model_validator(mode="after")
    def _shards_add_up(self) -> Self:
        total = sum(shard.sequences for shard in self.shards)
        if total != self.sequences:
            raise ValueError(f"shards hold {total} sequences, the split {self.sequences}")
        return self


class Filters(_Strict):
    """What a build was told to leave out, besides empty texts and exact duplicates.

    `min_bytes` and `max_bytes` limit a text's UTF-8 bytes; `quality` puts it to the rules of
    `data.building.filters`; of texts that are at least `near_duplicates` similar, one is kept.
    """

    min_bytes: PositiveInt | None = None
    max_bytes: PositiveInt | None = None
    quality: bool = False
    near_duplicates: Annotated[float, Field(gt=0, le=1)] | None = None


class Source(_Strict):
    """One input, by its name without the folders above it, and what became of its documents.

    For a file, `sha256` is the file's digest; for a folder, it is the digest of its sorted lines
    "<file digest>  <path in the folder>\\n", which is what `sha256sum` prints; for a Hugging Face data
    set, of such lines for its shards, where the digest of a shard is that of its texts' digests. `bytes`
    are those of the files as they are stored, or of the data set's texts.

    `documents` counts the distinct texts that no source before has, `held_out` those of them that are in
    validation. Left out were `duplicates` (exact, of texts here or in a source before) and `empty` ones; by
    filters, `near_duplicates` and, by the rule that they broke first, the `filtered`. All of these together
    are the texts that the source has.
    `train` counts how often the others occur in training with this `weight`, `train_bytes` the bytes of
    that. `licence` is what was stated.
    """

    path: str
    bytes: NonNegativeInt
    sha256: Digest
    licence: str | None = None
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    documents: NonNegativeInt = 0
    held_out: NonNegativeInt = 0
    duplicates: NonNegativeInt = 0
    empty: NonNegativeInt = 0
    near_duplicates: _Unless0 = 0
    filtered: Annotated[dict[str, NonNegativeInt], Field(exclude_if=lambda value: not value)] = {}
    train: NonNegativeInt = 0
    train_bytes: NonNegativeInt = 0

    @property
    def left_out(self) -> dict[str, int]:
        """How many texts each filter left out, by its name."""
        return {**self.filtered, "near_duplicates": self.near_duplicates}


class Manifest(_Strict):
    """Everything that identifies a data set; two equal manifests give the same batches.

    `end_of_text` is the token behind each document, and never inside one: it says where documents
    begin in a sequence.
    """

    format_version: Literal[2]
    sequence_length: PositiveInt
    vocabulary_size: PositiveInt
    end_of_text: NonNegativeInt
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
        """What a sequence takes in a shard."""
        return (self.sequence_length + 1) * (2 if self.dtype == "uint16" else 4)

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def load_manifest(path: Path) -> Manifest:
    """Read the manifest of a folder of shards (or the manifest.json itself).

    Raises FileNotFoundError if there is none; ValueError, in one line, if it is broken.
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
        given = repr(first["input"])
        shown = given if len(given) <= 80 else given[:77] + "..."
        raise ValueError(
            f"{file} is not a valid manifest: {place} is {shown} ({first['msg']}): rebuild the data"
        ) from None
