"""Imported checkpoints, trained further with a tenth of the tokens they have seen, against dropping layers.

    python -m benchmarks.quality.importing --json benchmarks/results/importing.json

For each seed an ordinary GPT-NeoX is trained with ``transformers``, imported, and trained further for a tenth
of the tokens at N = L and N = L/2. The alternatives, which drop layers, get the same checkpoint, tokens and
optimizer. Every way tries rising learning rates on the first checkpoint until it gets worse, and uses the
best one for the others. Rows that are in the file are not trained again. With ODEFORMER_DATA a folder of
texts is added to Python's standard library.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks import bench
from benchmarks.bench import Results, Row
from benchmarks.in_process import SEQUENCE_LENGTH
from benchmarks.quality.compare import build_shards
from benchmarks.quality.importing_pages import chosen, judged, score
from benchmarks.quality.importing_rows import WAYS, Way, largest_difference, row, train_ordinary
from benchmarks.quality.rows import BATCH
from odeformer.files.atomic import new_folder

RATES = (2.5e-4, 5e-4, 1e-3, 2e-3)


def main() -> None:
    """Train the missing rows and print the claims."""
    parser = bench.parser(__doc__)
    parser.add_argument("--tokens", type=int, default=1_600_000, help="training tokens of the checkpoint")
    parser.add_argument("--extra", type=int, default=160_000, help="tokens of the further training")
    parser.add_argument("--seeds", type=int, default=3, help="number of checkpoints")
    arguments = parser.parse_args()
    shards = build_shards(None, arguments.json.with_suffix(".shards"))
    table = Results(arguments.json)
    table.describe(shards, tokens=arguments.tokens, extra=arguments.extra)
    steps = arguments.tokens // (BATCH * SEQUENCE_LENGTH)
    for seed in range(arguments.seeds):
        folder = checkpoint(arguments.json, shards, steps, seed)

        def run(way: Way, rate: float, seed: int = seed, folder: Path = folder) -> Row:
            known = table.find(name=way.name, seed=seed, learning_rate=rate)
            if known is None:
                table.add(row(way, shards, folder, steps * BATCH, arguments.extra, seed, rate))
                bench.print_row(table.rows[-1])
            return known or table.rows[-1]

        for way in WAYS:
            if way.training is None:
                run(way, 0.0)
            elif seed == 0:
                try_rates(way, run)
            else:
                run(way, chosen(table.rows, way.name)[0]["learning_rate"])
    claims = judged(table.rows)
    difference = largest_difference(checkpoint(arguments.json, shards, steps, 0))
    table.write(claims=[claim._asdict() for claim in claims], largest_difference=difference)
    print("\nDifferences of validation perplexity, paired by checkpoint, with 95 % intervals:")
    bench.print_claims(claims)


def checkpoint(table: Path, shards: Path, steps: int, seed: int) -> Path:
    """The folder of an ordinary checkpoint beside the table, trained if it does not exist yet."""
    folder = table.with_suffix(".checkpoint") / f"ordinary-{seed}"
    if not folder.exists():
        with new_folder(folder) as unfinished:
            train_ordinary(shards, steps, seed, unfinished)
    return folder


def try_rates(way: Way, run: Callable[[Way, float], Row]) -> None:
    """Train at rising learning rates until the score gets worse."""
    best = float("inf")
    for rate in RATES:
        current = score(run(way, rate))
        if current > best:
            return
        best = current


if __name__ == "__main__":
    main()
