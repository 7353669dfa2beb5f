"""A small made-up corpus, and folders of shards built from it."""

import random
import shutil
from pathlib import Path

import pytest

from data.shards import build

SEQUENCE_LENGTH = 32


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty documents of made-up words, with some characters beyond ASCII."""
    folder = tmp_path_factory.mktemp("corpus")
    words = random.Random(0)
    vocabulary = ["".join(words.choices("abcdeé🙂 \n", k=words.randint(2, 8))) for _ in range(200)]
    for index in range(60):
        text = " ".join(words.choices(vocabulary, k=200))
        (folder / f"{index:02d}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def built(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The same data in shards of different sizes: from many shards to one. Only for reading."""
    root = tmp_path_factory.mktemp("built")
    folders = {}
    for shard_sequences in (7, 50, 200, 10_000):
        folders[shard_sequences] = root / str(shard_sequences)
        build(
            [corpus],
            folders[shard_sequences],
            vocabulary_size=400,
            sequence_length=SEQUENCE_LENGTH,
            held_out=0.1,
            shard_sequences=shard_sequences,
        )
    return folders


@pytest.fixture
def folder(built: dict[int, Path], tmp_path: Path) -> Path:
    """A copy with many shards, to be damaged."""
    return Path(shutil.copytree(built[50], tmp_path / "data"))
