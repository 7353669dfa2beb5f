"""MinHash signatures: two documents share as many of their 128 hashes as their texts are similar."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasketch import MinHash

HASHES = 128
"""Hashes per signature; the standard error of a similarity s is √(s (1 − s) / 128), which is 0.035 at 0.8."""
WORDS = 5
"""Words per shingle, as in Lee et al. 2022 ("Deduplicating Training Data Makes Language Models Better")."""
SEED = 1
"""Seed of the hash functions."""
SIGNED = np.dtype([("digest", "u1", 32), ("source", "<u4"), ("copies", "<u2"), ("hashes", "<u4", HASHES)])
"""The format of a document's signature in a file: 550 bytes."""

_WORD = re.compile(r"\w+")
_AT_ONCE = 4096  # words; each takes half a kilobyte while it is hashed


def signature(text: str) -> np.ndarray | None:
    """The MinHash of a text's shingles, uint32 [128]; None for a text without words.

    A shingle is five consecutive words, regardless of case and punctuation; a shorter text is one shingle.
    """
    sketch = _empty_sketch().copy()
    is_empty = True
    for words in _stretches(text.lower()):
        is_empty = False
        count = max(1, len(words) - WORDS + 1)
        sketch.update_batch([" ".join(words[at : at + WORDS]).encode() for at in range(count)])
    return None if is_empty else sketch.hashvalues


def sign(digest: bytes, source: int, copies: int, text: str) -> bytes:
    """A document's entry in a file of signatures; empty for a text without words."""
    hashes = signature(text)
    if hashes is None:
        return b""
    return np.array([(np.frombuffer(digest, "u1"), source, copies, hashes)], dtype=SIGNED).tobytes()


class Signatures:
    """The concatenated signatures in several files, which stay on disk."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._parts = [np.memmap(file, SIGNED, "r") for file in files if file.stat().st_size]
        self._starts = np.cumsum([0, *(len(part) for part in self._parts)])

    def field(self, name: str, rows: np.ndarray) -> np.ndarray:
        """The values of a field in the rows [n], in their order."""
        kind, shape = SIGNED[name].base, SIGNED[name].shape
        values = np.empty((len(rows), *shape), kind)
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        for owner in np.unique(owners):
            chosen = owners == owner
            values[chosen] = self._parts[owner][name][rows[chosen] - self._starts[owner]]
        return values

    def bands(self, first: int, count: int) -> np.ndarray:
        """A hash of each document's hashes ``first`` … ``first + count − 1``: uint64 [documents].

        Equal values mean equal hashes, except for collisions, which cost a useless comparison.
        """
        mixed = np.zeros(int(self._starts[-1]), np.uint64)
        for start, part in zip(self._starts, self._parts, strict=False):
            view = mixed[start : start + len(part)]
            for at in range(0, len(part), _AT_ONCE):
                block = part["hashes"][at : at + _AT_ONCE, first : first + count].astype(np.uint64)
                for column in block.T:
                    view[at : at + _AT_ONCE] *= np.uint64(0x9E3779B97F4A7C15)  # wraps around
                    view[at : at + _AT_ONCE] += column
        return mixed


def _stretches(text: str) -> Iterator[list[str]]:
    """Yield a text's words in stretches that overlap by four, so that every shingle is in one of them."""
    words: list[str] = []
    is_first = True
    for match in _WORD.finditer(text):
        words.append(match[0])
        if len(words) == _AT_ONCE:
            yield words
            words = words[1 - WORDS :]
            is_first = False
    if len(words) >= WORDS or (words and is_first):
        yield words


@lru_cache(maxsize=1)
def _empty_sketch() -> MinHash:
    """An empty sketch, whose hash functions are drawn once; the library is imported late, with scipy."""
    from datasketch import MinHash

    return MinHash(num_perm=HASHES, seed=SEED, scheme="affine32")
