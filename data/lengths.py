"""Lengths of the documents in a data folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.files import LocalFiles
from data.manifest import SplitName, load_manifest
from data.reader import ShardReader

ROWS_AT_ONCE = 4096


def document_lengths(folder: Path, split: SplitName, most_sequences: int = 2**18) -> np.ndarray:
    """The number of tokens of each whole document in a split's first sequences: int64 [documents].

    Args:
        folder: a local data folder.
        split: the split.
        most_sequences: maximum number of sequences to read.

    Raises:
        FileNotFoundError, ValueError: if the folder is damaged.
    """
    manifest = load_manifest(folder)
    shards = manifest.splits[split].shards
    reader = ShardReader(manifest, split, LocalFiles(folder, shards).file)
    count = min(manifest.splits[split].sequences, most_sequences)
    ends = [np.array([-1])]  # positions of end-of-text; the first document begins at token 0
    for start in range(0, count, ROWS_AT_ONCE):
        rows = reader.rows(np.arange(start, min(start + ROWS_AT_ONCE, count)))
        # Consecutive rows overlap by one token: without the last token of each, they are the token stream.
        positions = np.flatnonzero(rows[:, :-1].reshape(-1) == manifest.end_of_text)
        ends.append(positions + start * manifest.sequence_length)
    return np.diff(np.concatenate(ends)) - 1
