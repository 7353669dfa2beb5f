"""Small sets of texts, and what a build makes of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_builds import SMALL, made_up, write_texts

from data.manifest import Manifest
from data.shards import build


@pytest.fixture(scope="session")
def documents() -> list[str]:
    """Eighty texts."""
    return made_up(80, seed=1)


@pytest.fixture(scope="session")
def reference(documents: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of them, built from a folder of text files."""
    root = tmp_path_factory.mktemp("reference")
    build([write_texts(documents, root / "texts")], root / "shards", **SMALL)
    return root / "shards"


@pytest.fixture
def small_build(tmp_path: Path) -> Callable[..., Manifest]:
    """`small_build(name, *sources, **settings)`: build `tmp_path / name`."""

    def run(name: str, *sources: Any, **settings: Any) -> Manifest:
        return build(sources, tmp_path / name, **{**SMALL, **settings})

    return run
