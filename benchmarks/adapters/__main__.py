"""What adapters cost, what they gain, and what sharing a pass saves.

    python -m benchmarks.adapters --json benchmarks/results/adapters.json [--only PART ...]

``gains``: SST-2 and GSM8K from ODEFORMER_DATA on a base that is pretrained here, beside the JSON; ``steps``:
time and memory against full fine-tuning and ``peft``; ``together``: jobs in one process against as many
processes; ``formats``: an adapter as ``peft`` loads it; ``sizes``: parameters by the formula. Rows that are
in the JSON already are not run again. Those of ``steps`` and ``together`` want the machine for themselves.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.adapters import cost, formats, gains, together
from benchmarks.adapters.base import pretrained
from benchmarks.adapters.tables import claims
from benchmarks.rows_file import RowsFile


class Table(RowsFile):
    """The rows so far, in their file."""

    def add(self, row: dict[str, Any]) -> None:
        """Append a row, write the file, and say so."""
        super().add(row)
        print(json.dumps(row), flush=True)


def main() -> None:
    """Run what is missing, part by part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="the table; rows in it are not run again")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--seeds", type=int, default=3, help="of the gains")
    parser.add_argument("--rounds", type=int, default=10, help="of everything that is timed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = arguments.json.with_suffix(".work")
    folder.mkdir(parents=True, exist_ok=True)
    base, table = pretrained(folder), Table(arguments.json)
    table.describe(folder / "shards")
    for part in arguments.only:
        PARTS[part](base, table, arguments)
    for claim, bar, measured, reached in claims(table.rows):
        print(f"{'reached' if reached else 'MISSED ':<8} {claim}: {measured} (bar: {bar})")


def run_gains(base: Path, table: Table, arguments: argparse.Namespace) -> None:
    gains.run_all(base, arguments.seeds, lambda: table.rows, table.add)


def run_steps(base: Path, table: Table, arguments: argparse.Namespace) -> None:
    there = {(row["width"], row["gradient"]) for row in table.rows if row["kind"] == "step"}
    for width in cost.WIDTHS:
        for gradient in ("direct", "checkpoint"):
            if (width, gradient) not in there:
                table.add(cost.compare(width, gradient, arguments.rounds))


def run_together(base: Path, table: Table, arguments: argparse.Namespace) -> None:
    there = {row["batch"] for row in table.rows if row["kind"] == "together"}
    for batch in (4, 8):
        if batch not in there:
            table.add(together.compare(base, batch, core=0))


def run_formats(base: Path, table: Table, arguments: argparse.Namespace) -> None:
    there = {row["depth"] for row in table.rows if row["kind"] == "export"}
    for depth in (4, 16):
        if depth not in there:
            table.add(formats.exported(base, depth))


def run_sizes(base: Path, table: Table, arguments: argparse.Namespace) -> None:
    there = {row["width"] for row in table.rows if row["kind"] == "size"}
    for width in formats.WIDTHS:
        if width not in there:
            table.add(formats.size(width))


PARTS: dict[str, Callable[[Path, Table, argparse.Namespace], None]] = {
    "sizes": run_sizes,
    "formats": run_formats,
    "steps": run_steps,
    "together": run_together,
    "gains": run_gains,
}


if __name__ == "__main__":
    main()
