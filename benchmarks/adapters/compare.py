"""Adapters: cost of a step, gain against full fine-tuning, and joint training of several jobs.

    python -m benchmarks.adapters.compare --json benchmarks/results/adapters.json [--only PART ...]

``gains``: SST-2 and GSM8K from ODEFORMER_DATA on a base that is pretrained here, beside the JSON; ``depths``:
one adapter for all depths of a base of K = D against one for each; ``steps``:
time and memory against full fine-tuning and ``peft``; ``together``: jobs in one process against one process
each; ``formats``: an adapter as ``peft`` loads it; ``sizes``: parameters by the formula. Rows that are in the
file are not measured again. ``steps`` and ``together`` need an otherwise idle machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import bench
from benchmarks.adapters import cost, depths, formats, gains, together
from benchmarks.adapters.base import PRESET, built_shards, pretrained
from benchmarks.adapters.pages import claims
from benchmarks.bench import Results, Row

PARTS = ("sizes", "formats", "steps", "together", "gains", "depths")


def main() -> None:
    """Measure the missing rows, part by part."""
    parser = bench.parser(__doc__, rounds=10)
    parser.add_argument(
        "--only", nargs="*", choices=PARTS, default=PARTS, metavar="PART", help="parts to run (default: all)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="seeds of gains and depths")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = arguments.json.with_suffix(".work")
    folder.mkdir(parents=True, exist_ok=True)
    results = Results(arguments.json)
    results.describe(built_shards(folder))
    for part in arguments.only:
        if part == "gains":
            rows = gains.missing(pretrained(folder), gains.GAINS, arguments.seeds, results.rows)
        elif part == "depths":
            preset = pretrained(folder, base=PRESET)
            rows = gains.missing(preset, depths.STUDY, arguments.seeds, results.rows)
        else:
            rows = missing(part, folder, results, arguments.rounds)
        for row in rows:
            results.add(row)
            bench.print_row(row)
    bench.print_claims(claims(results.rows))


def missing(part: str, folder: Path, results: Results, rounds: int) -> Iterator[Row]:
    """Measure the rows of a part that are not in the file."""
    if part == "sizes":
        for width in formats.WIDTHS:
            if results.find(kind="size", width=width) is None:
                yield formats.size(width)
    elif part == "formats":
        for depth in (4, 16):
            if results.find(kind="export", depth=depth) is None:
                yield formats.exported(pretrained(folder), depth)
    elif part == "steps":
        for width in cost.WIDTHS:
            for gradient in ("direct", "checkpoint"):
                if results.find(kind="step", width=width, gradient=gradient) is None:
                    yield cost.compare(width, gradient, rounds)
    elif part == "together":
        for batch in (4, 8):
            if results.find(kind="together", batch=batch) is None:
                yield together.compare(pretrained(folder), batch, core=0)


if __name__ == "__main__":
    main()
