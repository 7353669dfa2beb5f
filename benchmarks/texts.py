"""The texts that benchmarks train on: Python's standard library, packages, and ``ODEFORMER_DATA``."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

from launcher.quickstart.standard_library import is_text, sources

PACKAGES = ("matplotlib", "networkx", "numpy", "pandas", "scipy", "sklearn", "sqlalchemy")
"""Installed packages with 85 MB of sources by many authors, of the versions in ``constraints.txt``."""


def benchmark_texts(folder: Path) -> list[Path]:
    """Text files of the standard library and, if it is set, of the folder ``ODEFORMER_DATA``.

    Args:
        folder: a folder to write the questions and answers of JSONL tasks into, as text.
    """
    texts = sources()
    data = os.environ.get("ODEFORMER_DATA")
    if data is None:
        return texts
    texts += sorted(Path(data).glob("*.txt"))
    for task in sorted(Path(data).glob("*/train.jsonl")):
        rows = [json.loads(line) for line in task.read_text(encoding="utf-8").splitlines()]
        file = folder / f"{task.parent.name}.txt"
        text = "\n\n".join("\n".join(str(value) for value in row.values()) for row in rows)
        file.write_text(text, encoding="utf-8")
        texts.append(file)
    return texts


def package_texts() -> list[Path]:
    """The modules of :data:`PACKAGES`, sorted, without tables of data."""
    texts = []
    for name in PACKAGES:
        spec = find_spec(name)
        assert spec is not None, name
        assert spec.origin is not None, name
        texts += [path for path in sorted(Path(spec.origin).parent.rglob("*.py")) if is_text(path)]
    return texts
