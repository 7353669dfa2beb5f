"""What every test may use: real text and a place for real shards."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def text_files() -> list[Path]:
    """A few modules of the standard library: real text that every machine has."""
    root = Path(sysconfig.get_path("stdlib"))
    return [
        root / name
        for name in ("argparse.py", "ast.py", "csv.py", "heapq.py", "json/decoder.py", "shutil.py")
    ]


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory, text_files: list[Path]) -> Path:
    """Small shards of that text: a vocabulary of 400, sequences of 32 tokens."""
    from data.shards import build

    folder = tmp_path_factory.mktemp("shards") / "shards"
    build(text_files, folder, vocabulary_size=400, sequence_length=32, held_out=0.2)
    return folder


@pytest.fixture(scope="session")
def shared_texts() -> Path:
    """The folder of benchmark texts; skips, saying so, where it is absent."""
    folder = Path(os.environ.get("ODEFORMER_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"ODEFORMER_DATA: {folder} is not there")
    return folder
