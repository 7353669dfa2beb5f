"""Does an imported checkpoint become one for every depth, with a tenth of the tokens it has seen?

    python -m benchmarks.importing --json benchmarks/results/importing.json

Trains an ordinary GPT-NeoX with ``transformers`` for each seed, imports it, trains it on for a tenth of the
tokens at N = L and N = L/2, and does with the same checkpoint, tokens and optimizer what else one could:
dropping layers. Every way tries rising learning rates on the first checkpoint, until it gets worse, and
takes the best to the others. Rows already in the file are not run again. With ODEFORMER_DATA a folder of
texts adds to Python's own standard library.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.importing_claims import chosen, judged, score
from benchmarks.importing_models import train_ordinary
from benchmarks.importing_rows import WAYS, Way, largest_difference, row
from benchmarks.in_process import SEQUENCE_LENGTH
from benchmarks.quality import build_shards
from benchmarks.quality_rows import BATCH
from benchmarks.rows_file import RowsFile

RATES = (2.5e-4, 5e-4, 1e-3, 2e-3)


def main() -> None:
    """Run what is missing, row by row, and print the claims."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=1_600_000, help="that the checkpoint is trained on")
    parser.add_argument("--extra", type=int, default=160_000, help="the tokens after these")
    parser.add_argument("--seeds", type=int, default=3, help="checkpoints")
    parser.add_argument("--json", type=Path, required=True, help="the table; rows in it are not run again")
    arguments = parser.parse_args()
    shards = build_shards(None, arguments.json.with_suffix(".shards"))
    table = RowsFile(arguments.json)
    table.describe(shards, tokens=arguments.tokens, extra=arguments.extra)
    steps = arguments.tokens // (BATCH * SEQUENCE_LENGTH)
    for seed in range(arguments.seeds):
        folder = checkpoint(arguments.json, shards, steps, seed)

        def run(way: Way, rate: float, seed: int = seed, folder: Path = folder) -> dict[str, Any]:
            known = [r for r in table.rows if same(r, way, seed, rate)]
            if not known:
                table.add(row(way, shards, folder, steps * BATCH, arguments.extra, seed, rate))
                print(line(table.rows[-1]), flush=True)
            return known[0] if known else table.rows[-1]

        for way in WAYS:
            if way.training is None:
                run(way, 0.0)
            elif seed == 0:
                at_its_best(way, run)
            else:
                run(way, chosen(table.rows, way.name)[0]["learning_rate"])
    claims = judged(table.rows)
    difference = largest_difference(checkpoint(arguments.json, shards, steps, 0))
    table.write(claims=claims, largest_difference=difference)
    print("\nDifferences of validation perplexity, paired by checkpoint, with 95 % intervals:")
    for claim in claims:
        print(
            f"  {claim['verdict']:<8} {claim['measured']:<28} {claim['claim']} ({claim['bar'] or 'no bar'})"
        )


def checkpoint(table: Path, shards: Path, steps: int, seed: int) -> Path:
    """The folder of an ordinary checkpoint beside the table, trained when it is not there yet."""
    folder = table.with_suffix(".checkpoint") / f"ordinary-{seed}"
    if not folder.exists():
        beside = folder.with_name(f"{folder.name}.incomplete")
        shutil.rmtree(beside, ignore_errors=True)
        train_ordinary(shards, steps, seed, beside)
        beside.rename(folder)
    return folder


def at_its_best(way: Way, run: Callable[[Way, float], dict[str, Any]]) -> None:
    """Try the learning rates in rising order, until a way gets worse."""
    before = float("inf")
    for rate in RATES:
        now = score(run(way, rate))
        if now > before:
            return
        before = now


def same(known: dict[str, Any], way: Way, seed: int, rate: float) -> bool:
    """Whether a row is of that run."""
    return (known["name"], known["seed"], known["learning_rate"]) == (way.name, seed, rate)


def line(row: dict[str, Any]) -> str:
    """A row, to watch the table grow."""
    losses = "  ".join(f"N={n} {loss:.4f}" for n, loss in row["validation_loss"].items())
    return f"{row['name']:<54} seed {row['seed']} lr {row['learning_rate']:g}  {losses}"


if __name__ == "__main__":
    main()
