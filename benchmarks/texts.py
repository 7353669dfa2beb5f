"""The texts that benchmarks train on: ``ODEFORMER_DATA``, Python's standard library, installed packages."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

from launcher.quickstart.standard_library import is_text, sources

PACKAGES = ("matplotlib", "networkx", "numpy", "pandas", "scipy", "sklearn", "sqlalchemy")
"""Sources of 85 MB, written by many hands, of the versions in ``constraints.txt``."""


def benchmark_texts(folder: Path) -> list[Path]:
    """Text files: the standard library's, and where ``ODEFORMER_DATA`` is set that folder's.

    Args:
        folder: where questions and answers of a JSONL task are written out as text.
    """
    texts = sources()
    given = os.environ.get("ODEFORMER_DATA")
    if given is None:
        return texts
    texts += sorted(Path(given).glob("*.txt"))
    for task in sorted(Path(given).glob("*/train.jsonl")):
        rows = [json.loads(line) for line in task.read_text(encoding="utf-8").splitlines()]
        written = folder / f"{task.parent.name}.txt"
        text = "\n\n".join("\n".join(str(value) for value in row.values()) for row in rows)
        written.write_text(text, encoding="utf-8")
        texts.append(written)
    return texts


def package_texts() -> list[Path]:
    """The modules of :data:`PACKAGES`, sorted, without tables of test data."""
    texts = []
    for name in PACKAGES:
        spec = find_spec(name)
        assert spec is not None, name
        assert spec.origin is not None, name
        texts += [path for path in sorted(Path(spec.origin).parent.rglob("*.py")) if is_text(path)]
    return texts
