"""The texts that benchmarks train on: those of ``ODEFORMER_DATA`` and Python's own standard library."""

from __future__ import annotations

import json
import os
from pathlib import Path

from launcher.standard_library import sources


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
