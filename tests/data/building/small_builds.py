"""Made-up texts, and what is left of a build."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np

from data.manifest import SplitName, load_manifest
from data.stream import ShardStream
from data.tokenizer import end_of_text_id, load_tokenizer

SMALL: dict[str, Any] = {"vocabulary_size": 300, "sequence_length": 32, "held_out": 0.2}
"""Settings of a build of a few texts."""


def made_up(count: int, seed: int) -> list[str]:
    """Distinct texts of a few lines, with characters beyond ASCII."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdeé🙂", k=draw.randint(2, 8))) for _ in range(200)]
    return [f"{index}\n" + " ".join(draw.choices(words, k=60)) + "\n" for index in range(count)]


def write_texts(texts: list[str], folder: Path) -> Path:
    """The texts, each in a file of a new folder."""
    folder.mkdir()
    for index, text in enumerate(texts):
        (folder / f"{index:03d}.txt").write_text(text, encoding="utf-8", newline="")
    return folder


def sequences(folder: Path, split: SplitName) -> np.ndarray:
    """All rows of a split, int64 [n, sequence_length + 1]."""
    manifest = load_manifest(folder)
    length = manifest.sequence_length
    stream = ShardStream(
        folder, rank=0, world_size=1, global_batch=1, sequence_length=length, seed=0, split=split
    )
    return stream.sequence_rows(np.arange(manifest.splits[split].sequences)).numpy()


def document_texts(folder: Path, split: SplitName) -> list[str]:
    """The documents in a split's shards, but for the end that did not fill a sequence."""
    tokenizer = load_tokenizer(folder)
    rows = sequences(folder, split)
    tokens = np.concatenate([rows[:1, 0], rows[:, 1:].ravel()])
    ends = np.flatnonzero(tokens == end_of_text_id(tokenizer))
    pieces = np.split(tokens, ends + 1)[:-1]
    return [tokenizer.decode(piece[:-1].tolist()) for piece in pieces]


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}
