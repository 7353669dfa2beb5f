"""How long the documents in a folder of shards are."""

from pathlib import Path

import numpy as np

from data.files import LocalFiles
from data.manifest import SplitName, load_manifest
from data.reader import ShardReader

ROWS_AT_ONCE = 4096


def document_lengths(folder: Path, split: SplitName, most_sequences: int = 2**18) -> np.ndarray:
    """Return int64 [documents]: tokens of each whole document in the split's first sequences.

    The end-of-text behind a document is not counted. `most_sequences` bounds what is read.
    Raises what opening and reading the folder raises.
    """
    manifest = load_manifest(folder)
    shards = manifest.splits[split].shards
    reader = ShardReader(manifest, split, LocalFiles(folder, shards).file)
    count = min(manifest.splits[split].sequences, most_sequences)
    ends = [np.array([-1])]  # the first document begins at the first token
    for start in range(0, count, ROWS_AT_ONCE):
        rows = reader.rows(np.arange(start, min(start + ROWS_AT_ONCE, count)))
        # Neighbours share a token: without each row's last one they are the stream of tokens again.
        found = np.flatnonzero(rows[:, :-1].reshape(-1) == manifest.end_of_text)
        ends.append(found + start * manifest.sequence_length)
    return np.diff(np.concatenate(ends)) - 1
