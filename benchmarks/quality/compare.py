"""Continuous-depth models against ordinary ones: the same tokens, evaluated at every depth.

    python -m benchmarks.quality --tokens 1600000 --seeds 3 --json benchmarks/results/quality.json
    python -m benchmarks.quality --quick --text FILE --json OUT

Every row is one training run on the same tokens in the same order. Rows that are in the file are not trained
again, so the table can grow over many calls, and a run that was interrupted resumes from its last checkpoint
in the folder *.runs beside the JSON. Models with a claim try three learning rates with the first seed and
train the other seeds at the best one; all others are trained once, at a fixed rate. The last step prints what
the rows say of each claim and draws the figure beside the JSON. The text is Python's standard library, seven
of its packages, and the files in the folder ODEFORMER_DATA.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

from benchmarks import bench
from benchmarks.bench import Results, Row
from benchmarks.in_process import SEQUENCE_LENGTH
from benchmarks.quality import frontier
from benchmarks.quality.claims import CHECKPOINT, SEPARATE, gain_per_flop, judged
from benchmarks.quality.plot import plot
from benchmarks.quality.rows import MODELS, Model, linear_identity, train_row
from benchmarks.texts import benchmark_texts, package_texts
from data.manifest import load_manifest
from data.shards import build

RATES = (2e-3, 3e-3, 4.5e-3)
FIXED_RATE = 3e-3
VOCABULARY = 2048
QUICK = (SEPARATE[8], SEPARATE[4], CHECKPOINT, "ordinary, D layers, narrow feed-forward")
QUICK_TOKENS = 1_000_000


def main() -> None:
    """Train the missing rows and print the table."""
    parser = bench.parser(__doc__)
    parser.add_argument("--text", type=Path, nargs="*", help="text files instead of the standard texts")
    parser.add_argument(
        "--quick", action="store_true", help="the four main rows with a million tokens, within half an hour"
    )
    parser.add_argument(
        "--tokens", type=int, default=400_000, help="training tokens of each row, less than one epoch"
    )
    parser.add_argument(
        "--seeds", type=int, default=1, help="seeds of models with a claim; 1 also fixes the learning rate"
    )
    parser.add_argument("--only", nargs="*", metavar="NAME", help="models to train (default: all)")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count(), help="rows trained at once, one core each"
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.only = list(QUICK)
    unknown = set(arguments.only or ()) - {model.name for model in MODELS}
    if unknown:
        parser.error(f"--only {sorted(unknown)}: the models are {[model.name for model in MODELS]}")
    models = [model for model in MODELS if not arguments.only or model.name in arguments.only]
    table = Table(arguments.json)
    shards = build_shards(arguments.text, arguments.json.with_suffix(".shards"))
    table.describe(shards)
    epoch = load_manifest(shards).splits["train"].sequences * SEQUENCE_LENGTH
    if arguments.quick:
        arguments.tokens = min(QUICK_TOKENS, epoch)
    elif arguments.tokens > epoch:
        parser.error(f"--tokens {arguments.tokens}: the texts have {epoch} training tokens")

    claimed = [model for model in models if model.claimed]
    others = [model for model in models if not model.claimed]
    with ProcessPoolExecutor(
        arguments.processes, mp_context=get_context("spawn"), max_tasks_per_child=1
    ) as pool:
        # The other seeds need the first one's best learning rate, so rounds run one after the other.
        for round_models, seeds in ((claimed, [0]), (claimed, range(1, arguments.seeds)), (others, [0])):
            jobs = [pool.submit(job) for job in missing(round_models, seeds, arguments, table)]
            try:
                for done in as_completed(jobs):
                    table.add(done.result())
            except BaseException:  # said now, not after the rows that were still to come
                pool.shutdown(cancel_futures=True)
                raise
    table.show(arguments.tokens)


def missing(
    models: Iterable[Model], seeds: Iterable[int], arguments: argparse.Namespace, table: Table
) -> Iterator[Callable[[], Row]]:
    """The training runs of a round whose rows are not in the table."""
    json, tokens = arguments.json, arguments.tokens
    shards, runs, kept = (json.with_suffix(f".{kind}") for kind in ("shards", "runs", "checkpoint"))
    for model, seed in product(models, seeds):
        name = re.sub("[^a-z0-9]+", "-", model.name.lower().replace("/", "-over-"))
        for rate in rates(model, seed, arguments, table):
            if table.trained(model, seed, tokens, rate) is None:
                folder = runs / f"{name}-{tokens}-{rate:g}-{seed}"
                keep = kept if model.kept and seed == 0 and rate == FIXED_RATE else None
                yield partial(train_row, model, shards, tokens, seed, rate, folder, keep)


def rates(model: Model, seed: int, arguments: argparse.Namespace, table: Table) -> list[float]:
    """The learning rates that a row is trained at."""
    if not model.claimed or arguments.seeds == 1:
        return [FIXED_RATE]
    if seed == 0:
        return list(RATES)
    return [min(RATES, key=lambda rate: table.loss(model, 0, arguments.tokens, rate))]


def build_shards(texts: list[Path] | None, out: Path) -> Path:
    """Build shards of the texts if they do not exist yet."""
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        texts = texts or [*benchmark_texts(out.parent), *package_texts()]
        build(texts, out, vocabulary_size=VOCABULARY, sequence_length=SEQUENCE_LENGTH, held_out=0.03)
    return out


class Table(Results):
    """The results file, printed as it grows."""

    def add(self, row: Row) -> None:
        """Append a row, write the file and print the row."""
        super().add(row)
        _print(row)

    def trained(self, model: Model, seed: int, tokens: int, rate: float) -> Row | None:
        """The row of that run, or None if it is missing."""
        rows = bench.select(self.rows, name=model.name, seed=seed, learning_rate=rate)
        return next((row for row in rows if abs(row["tokens"] - tokens) < 4096), None)

    def loss(self, model: Model, seed: int, tokens: int, rate: float) -> float:
        """The validation loss of that run at the model depth, infinite if it is missing."""
        row = self.trained(model, seed, tokens, rate)
        return row["validation_loss"][str(model.depth)] if row else float("inf")

    def show(self, tokens: int) -> None:
        """Print all rows and the claims at this number of tokens, and draw the figure."""
        rows = self.rows
        for row in rows:
            _print(row)
        claims, gains, identity = judged(rows, tokens), gain_per_flop(rows, tokens), linear_identity()
        self.write(
            claims=[claim._asdict() for claim in claims], gain_per_flop=gains, linear_identity=identity
        )
        plot(rows, tokens, self.path.with_suffix(".png"))
        frontier.plot(rows, tokens, VOCABULARY, self.path.with_suffix(".frontier.png"))
        print("\nDifferences of validation perplexity, paired by seed, with 95 % intervals:")
        bench.print_claims(claims)
        for gain in gains:
            print(
                f"N = {gain['from']} to {gain['to']}: {gain['nats_per_mflop']:+.4f} nats for each further "
                "million forward FLOPs and token"
            )
        print(f"linear, K = D, with the ordinary model's weights: logits differ by at most {identity:.1e}")


def _print(row: Row) -> None:
    keys = ("name", "parameters", "seed", "learning_rate", "train_loss", "validation_loss")
    bench.print_row({key: row[key] for key in keys})


if __name__ == "__main__":
    main()
