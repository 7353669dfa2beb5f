"""Write every page and marked part of the documents that shows results of benchmarks.

    python -m benchmarks.docs            # write what has changed
    python -m benchmarks.docs --check    # fail if a document does not match the results

A marked part stands between ``<!-- generated: NAME -->`` and ``<!-- /generated: NAME -->``; other generated
documents are written whole.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import benchmarks.adapters.pages as adapters
import benchmarks.analysis.pages as analysis
import benchmarks.cluster.pages as cluster
import benchmarks.data.pages as data
import benchmarks.gradients.pages as gradients
import benchmarks.quality.importing_pages as importing
import benchmarks.quality.pages as quality
import benchmarks.speed.pages as speed

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"


class Generated(NamedTuple):
    """Generated text and its place."""

    document: str
    text: Callable[..., str]
    results: tuple[str, ...]
    """The names of the results files, whose contents are the arguments of ``text``."""
    mark: str | None = None
    """The name of the marked part; None for a whole page."""


GENERATED = (
    Generated("docs/quality.md", quality.page, ("quality",)),
    Generated("docs/gradients.md", gradients.page, ("gradients",)),
    Generated("docs/generation.md", speed.generation, ("generation",)),
    Generated("docs/small_devices.md", speed.small_devices, ("small_formats",)),
    Generated("docs/importing.md", importing.page, ("importing",)),
    Generated("README.md", quality.readme_claims, ("quality",), "claims"),
    Generated("README.md", speed.startup, ("startup",), "startup"),
    Generated("docs/data.md", data.cost, ("loader", "shuffle", "data_build"), "cost"),
    Generated("docs/zero.md", cluster.traffic, ("traffic",), "traffic"),
    Generated("docs/planning.md", cluster.simulation, ("simulation",), "simulation"),
    Generated("docs/planning.md", cluster.plan, ("plan",), "plan"),
    Generated("docs/checkpoints.md", cluster.checkpointing, ("checkpointing",), "checkpointing"),
    Generated("docs/pool.md", cluster.pool, ("pool",), "pool"),
    Generated("docs/adapters.md", adapters.part, ("adapters",), "adapters"),
    Generated("docs/analysis.md", analysis.faithfulness, ("faithfulness",), "faithfulness"),
    Generated("docs/analysis.md", analysis.cost, ("analysis",), "cost"),
)


def outdated(root: Path = ROOT) -> dict[Path, str]:
    """The generated documents under ``root`` that do not match the results, with the text they should have.

    Raises:
        ValueError: for a document without the marks of a part.
    """
    documents: dict[Path, str] = {}
    for part in GENERATED:
        path = root / part.document
        text = part.text(*(results(name) for name in part.results))
        if part.mark is None:
            documents[path] = text + "\n"
        else:
            documents[path] = replace(documents.get(path) or path.read_text(), part.mark, text, part.document)
    return {path: text for path, text in documents.items() if not path.exists() or path.read_text() != text}


def results(name: str) -> dict[str, Any]:
    """The content of a results file."""
    return dict(json.loads((RESULTS / f"{name}.json").read_text()))


def replace(document: str, mark: str, text: str, name: str) -> str:
    """The document with this text between the marks, on lines of their own if the marks are.

    Raises:
        ValueError: if the marks do not occur exactly once.
    """
    pattern = re.compile(
        rf"(<!-- generated: {mark} -->)(\n?).*?(\n?)(<!-- /generated: {mark} -->)", re.DOTALL
    )
    replaced, count = pattern.subn(lambda match: f"{match[1]}{match[2]}{text}{match[3]}{match[4]}", document)
    if count != 1:
        raise ValueError(f"{name} has {count} parts marked “generated: {mark}”, not one")
    return replaced


def main() -> int:
    """Write the documents, or check them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a document would change")
    check = parser.parse_args().check
    changed = outdated()
    for path, text in changed.items():
        if check:
            print(f"{path.relative_to(ROOT)} does not match the results: run python -m benchmarks.docs")
        else:
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
