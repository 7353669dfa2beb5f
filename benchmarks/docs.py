"""Write every marked part of the documents from the results of benchmarks.

    python -m benchmarks.docs            # write what has changed
    python -m benchmarks.docs --check    # fail if a document does not match the results

A marked part stands between ``<!-- generated: NAME -->`` and ``<!-- /generated: NAME -->``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import benchmarks.adapters.packing as packing
import benchmarks.adapters.pages as adapters
import benchmarks.analysis.pages as analysis
import benchmarks.cluster.pages as cluster
import benchmarks.data.pages as data
import benchmarks.gradients.pages as gradients
import benchmarks.headlines as headlines
import benchmarks.quality.importing_pages as importing
import benchmarks.quality.pages as quality
import benchmarks.quality.students_pages as students
import benchmarks.speed.pages as speed

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"


class Part(NamedTuple):
    """A marked part of a document."""

    document: str
    mark: str
    text: Callable[..., str]
    results: tuple[str, ...]
    """The names of the results files, whose contents are the arguments of ``text``."""


PARTS = (
    Part("README.md", "numbers", headlines.numbers, ("quality_long", "chaos", "generation")),
    Part("docs/adapters.md", "adapters", adapters.part, ("adapters",)),
    Part("docs/analysis.md", "cost", analysis.cost, ("analysis",)),
    Part("docs/analysis.md", "faithfulness", analysis.faithfulness, ("faithfulness",)),
    Part("docs/benchmarks.md", "overhead", cluster.overhead, ("overhead",)),
    Part("docs/benchmarks.md", "startup", speed.startup, ("startup",)),
    Part("docs/benchmarks.md", "throughput", speed.throughput, ("throughput",)),
    Part("docs/benchmarks.md", "serving", speed.serving, ("serving",)),
    Part("docs/chats.md", "packing", packing.part, ("packing",)),
    Part("docs/checkpoints.md", "checkpointing", cluster.checkpointing, ("checkpointing",)),
    Part("docs/data.md", "cost", data.cost, ("loader", "shuffle", "data_build")),
    Part("docs/door.md", "uploads", cluster.uploads, ("uploads",)),
    Part("docs/faults.md", "chaos", cluster.chaos, ("chaos",)),
    Part("docs/generation.md", "rates", speed.generation, ("generation",)),
    Part("docs/generation.md", "speculation", speed.speculation, ("generation",)),
    Part("docs/gradients.md", "claims", gradients.claims_part, ("gradients",)),
    Part("docs/gradients.md", "reversible", gradients.reversible, ("gradients",)),
    Part("docs/gradients.md", "adjoint", gradients.adjoint, ("gradients",)),
    Part("docs/gradients.md", "cost", gradients.cost, ("gradients",)),
    Part("docs/importing.md", "importing", importing.part, ("importing",)),
    Part("docs/planning.md", "plan", cluster.plan, ("plan",)),
    Part("docs/planning.md", "simulation", cluster.simulation, ("simulation",)),
    Part("docs/pool.md", "pool", cluster.pool, ("pool",)),
    Part("docs/quality.md", "quality", quality.part, ("quality",)),
    Part("docs/quality.md", "quality long", quality.long_part, ("quality_long",)),
    Part("docs/small_devices.md", "formats", speed.small_devices, ("small_formats",)),
    Part("docs/students.md", "students", students.part, ("students",)),
    Part("docs/zero.md", "traffic", cluster.traffic, ("traffic",)),
)


def outdated(root: Path = ROOT) -> dict[Path, str]:
    """The generated documents under ``root`` that do not match the results, with the text they should have.

    Raises:
        ValueError: for a document without the marks of a part.
    """
    documents: dict[Path, str] = {}
    for document, mark, text, names in PARTS:
        path = root / document
        new = text(*(results(name) for name in names))
        documents[path] = replace(
            documents.get(path) or path.read_text(encoding="utf-8"), mark, new, document
        )
    return {path: text for path, text in documents.items() if path.read_text(encoding="utf-8") != text}


def results(name: str) -> dict[str, Any]:
    """The content of a results file."""
    return dict(json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")))


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
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
