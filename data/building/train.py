"""The tokenizer step: training a tokenizer on a sample of the documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel

from data import tokenizer as tokenizers
from data.building.encode import LONGEST_PIECE, keep
from data.building.near.clusters import keys_left_out
from data.building.scratch import Task
from data.building.spill import Spill, read_records
from data.corpus import cut_text

SAMPLE_BYTES = 128 * 1024 * 1024
"""Bytes of documents that a tokenizer is trained on."""


class Trained(BaseModel):
    """The vocabulary size of a tokenizer and its end-of-text token."""

    vocabulary_size: int
    end_of_text: int


@dataclass(frozen=True)
class TokenizerTask(Task[Trained]):
    """Trains a tokenizer on a sample of the documents, or writes a given one."""

    spills: tuple[Spill, ...]
    groups: tuple[tuple[int, int], ...]
    left_out: tuple[Path, ...]
    vocabulary_size: int
    given: bytes | None

    suffixes: ClassVar[tuple[str, ...]] = (".tokenizer",)
    result: ClassVar[type[BaseModel]] = Trained

    def work(self) -> Trained:
        """Write ``.tokenizer``, the content of a tokenizer.json."""
        if self.given is not None:
            tokenizer, data = tokenizers.from_json(self.given), self.given
        else:
            sample = training_sample(self.spills, self.groups, self.left_out)
            tokenizer = tokenizers.train_tokenizer(sample, self.vocabulary_size)
            data = tokenizers.to_json(tokenizer)
        with self.writing(".tokenizer") as file:
            file.write(data)
        return Trained(
            vocabulary_size=tokenizer.get_vocab_size(), end_of_text=tokenizers.end_of_text_id(tokenizer)
        )


def training_sample(
    spills: Sequence[Spill], groups: Iterable[tuple[int, int]], left_out: Sequence[Path]
) -> Iterator[str]:
    """Yield the first 128 MiB of training documents, a random sample since they are in random order."""
    size = 0
    for low, high in groups:
        for document in keep(read_records(spills, low, high), keys_left_out(left_out, low, high), {}):
            if not document.held_out:
                yield from (text.decode("utf-8") for text in cut_text(document.text, LONGEST_PIECE))
                size += len(document.text)
                if size >= SAMPLE_BYTES:
                    return
