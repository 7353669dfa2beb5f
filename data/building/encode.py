"""The encoding step: documents in a range of keys become two streams of tokens, one for each split."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from pydantic import BaseModel
from tokenizers import Tokenizer

from data import tokenizer as tokenizers
from data.building.near.clusters import keys_left_out
from data.building.scratch import Task
from data.building.spill import Record, Spill, read_records
from data.corpus import cut_text
from data.manifest import SplitName
from odeformer.files.errors import panics_are_errors

BATCH_PIECES = 64
"""Maximum number of pieces of text that are tokenized together."""
BATCH_BYTES = 1024 * 1024
"""Bytes of text that are tokenized together."""
LONGEST_PIECE = 1024 * 1024
"""Maximum bytes of a piece: tokenizers take a hundred times the memory of a text."""

SPLITS: tuple[SplitName, ...] = ("train", "validation")


class Counts(BaseModel):
    """Counts of one source's documents; the fields are those of :class:`data.manifest.Source`."""

    documents: int = 0
    duplicates: int = 0
    near_duplicates: int = 0
    held_out: int = 0
    train: int = 0
    train_bytes: int = 0


class EncodedSplit(BaseModel):
    """Counts of a split's documents, their UTF-8 bytes, and tokens including one end-of-text per document."""

    documents: int = 0
    bytes: int = 0
    tokens: int = 0


class Encoded(BaseModel):
    """The result of an encoding task."""

    sources: dict[int, Counts]
    """Counts by the number of the source."""
    splits: dict[SplitName, EncodedSplit]


class Kept(NamedTuple):
    """A document that goes into a split."""

    text: bytes
    held_out: bool


@dataclass(frozen=True)
class EncodeTask(Task[Encoded]):
    """Removes duplicates from the documents in the key ranges ``low`` … ``high`` − 1, and tokenizes them."""

    spills: tuple[Spill, ...]
    low: int
    high: int
    left_out: tuple[Path, ...]
    tokenizer: Path
    dtype: str

    suffixes: ClassVar[tuple[str, ...]] = (".train", ".validation", ".texts")
    result: ClassVar[type[BaseModel]] = Encoded

    def work(self) -> Encoded:
        """Write ``.train`` and ``.validation`` (raw tokens) and ``.texts`` (all validation documents)."""
        tokenizer = _load_tokenizer(self.tokenizer, self.tokenizer.stat().st_mtime_ns)
        end = tokenizers.end_of_text_id(tokenizer)
        sources: dict[int, Counts] = {}
        splits = {name: EncodedSplit() for name in SPLITS}
        with ExitStack() as stack:
            files = {name: stack.enter_context(self.writing(f".{name}")) for name in SPLITS}
            texts = stack.enter_context(self.writing(".texts"))
            records = read_records(self.spills, self.low, self.high)
            documents = keep(records, keys_left_out(self.left_out, self.low, self.high), sources)
            for batch in _batches(_pieces(documents)):
                for name in SPLITS:
                    chosen = [piece for piece in batch if piece.held_out == (name == "validation")]
                    tokens = _tokens(tokenizer, chosen, end, self.dtype)
                    files[name].write(tokens.tobytes())
                    splits[name].documents += sum(piece.is_last for piece in chosen)
                    splits[name].bytes += sum(len(piece.text) for piece in chosen)
                    splits[name].tokens += len(tokens)
                    if name == "validation":
                        texts.writelines(piece.text for piece in chosen)
        return Encoded(sources=sources, splits=splits)


def keep(records: Iterable[Record], left_out: Container[bytes], sources: dict[int, Counts]) -> Iterator[Kept]:
    """Yield each document of sorted records once.

    A text that several sources have is counted for the first of them, and occurs as often as the largest of
    their weights says.

    Args:
        records: records sorted by key.
        left_out: keys of near duplicates, which are only counted.
        sources: counts by the number of the source, which are updated.
    """
    for key, group in groupby(records, key=lambda record: record.key):
        copies = list(group)
        first = copies[0]
        if first.is_first:
            counts = sources.setdefault(first.source, Counts())
            if key in left_out:
                counts.near_duplicates += 1
            else:
                counts.documents += 1
                counts.held_out += first.held_out
            for other in copies[1:]:
                sources.setdefault(other.source, Counts()).duplicates += 1
        if key in left_out:
            continue

        record = next((record for record in copies if record.text is not None), None)
        if record is not None and record.text is not None:
            counts = sources.setdefault(record.source, Counts())
            if not record.held_out:
                counts.train += 1
                counts.train_bytes += len(record.text)
            yield Kept(record.text, record.held_out)


@lru_cache(maxsize=1)
def _load_tokenizer(file: Path, changed: int) -> Tokenizer:
    """The tokenizer, loaded once for all tasks of a process: a large one takes half a second."""
    return tokenizers.load_tokenizer(file)


class _Piece(NamedTuple):
    """A document, or a part of a long one, that is tokenized at once."""

    text: bytes
    held_out: bool
    is_first: bool
    is_last: bool


def _pieces(documents: Iterable[Kept]) -> Iterator[_Piece]:
    for document in documents:
        texts = cut_text(document.text, LONGEST_PIECE)
        for index, text in enumerate(texts):
            yield _Piece(text, document.held_out, index == 0, index == len(texts) - 1)


def _batches(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    batch: list[_Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if len(batch) >= BATCH_PIECES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _tokens(tokenizer: Tokenizer, pieces: Sequence[_Piece], end: int, dtype: str) -> np.ndarray:
    """The tokens of pieces [n], with begin-of-text, if there is one, and end-of-text around each document.

    Raises:
        ValueError: if the tokenizer gives end-of-text inside a document.
    """
    with panics_are_errors():
        firsts = tokenizer.encode_batch_fast([p.text.decode("utf-8") for p in pieces if p.is_first])
        others = [p.text.decode("utf-8") for p in pieces if not p.is_first]
        nexts = iter(tokenizers.continuing(tokenizer).encode_batch_fast(others) if others else [])
    begun = iter(firsts)
    ids: list[int] = []
    for piece in pieces:
        ids += next(begun if piece.is_first else nexts).ids
        if piece.is_last:
            ids.append(end)
    tokens = np.array(ids, dtype=dtype)
    if np.count_nonzero(tokens == end) != sum(piece.is_last for piece in pieces):
        raise ValueError(
            f"the tokenizer gives its end of text ({tokenizer.id_to_token(end)!r}) inside a document: "
            "choose another tokenizer or another end of text"
        )
    return tokens
