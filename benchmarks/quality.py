"""Is a continuous-depth model as good as an ordinary one, smaller, and right at every depth?

    python -m benchmarks.quality --tokens 8000000 --seeds 3 --json benchmarks/results/quality_long.json

Every row is one training run on the same tokens in the same order; rows already in the file are not run
again, so the table can grow over many calls. Claimed models try three learning rates with the first seed
and run the other seeds at the best; the rest run once, at a fixed one. Ends with what the rows say of each
claim, and draws the figure beside the JSON. A row that was stopped goes on from its last commit in the folder
*.runs beside the JSON. The text is Python's standard library, seven of its packages, and the files in the
folder ODEFORMER_DATA.
"""

from __future__ import annotations

import argparse
import os
import re
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.quality_claims import gain_per_flop, judged
from benchmarks.quality_plot import plot
from benchmarks.quality_rows import MODELS, Model, linear_identity, train_row
from benchmarks.rows_file import RowsFile
from benchmarks.texts import benchmark_texts, package_texts
from data.shards import build

RATES = (2e-3, 3e-3, 4.5e-3)
FIXED_RATE = 3e-3
VOCABULARY = 2048


def main() -> None:
    """Run what is missing, row by row, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--text", type=Path, nargs="*", help="text files; ODEFORMER_DATA's and Python's own by default"
    )
    parser.add_argument(
        "--tokens", type=int, default=400_000, help="training tokens of each row, less than one epoch"
    )
    parser.add_argument(
        "--seeds", type=int, default=1, help="seeds of the claimed rows; 1 also fixes the learning rate"
    )
    parser.add_argument(
        "--only", nargs="*", metavar="NAME", help="the models to train; all of the table when not given"
    )
    parser.add_argument("--json", type=Path, required=True, help="the table; rows in it are not run again")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count(), help="rows trained at once, a core each"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.only or ()) - {model.name for model in MODELS}
    if unknown:
        parser.error(f"--only {sorted(unknown)}: there are {[model.name for model in MODELS]}")
    models = [model for model in MODELS if not arguments.only or model.name in arguments.only]
    table = Table(arguments.json)
    shards = build_shards(arguments.text, arguments.json.with_suffix(".shards"))
    table.describe(shards)
    with ProcessPoolExecutor(
        arguments.processes, mp_context=get_context("spawn"), max_tasks_per_child=1
    ) as pool:
        # The other seeds need the best rate of the first one.
        claimed, others = ([m for m in models if m.claimed is wanted] for wanted in (True, False))
        for round_models, seeds in ((claimed, [0]), (claimed, range(1, arguments.seeds)), (others, [0])):
            jobs = [
                (model, seed, rate)
                for model in round_models
                for seed in seeds
                for rate in rates(model, seed, arguments, table)
                if table.find(model, seed, arguments.tokens, rate) is None
            ]
            running = [
                pool.submit(
                    train_row,
                    m,
                    shards,
                    arguments.tokens,
                    seed,
                    rate,
                    run_folder(m, seed, rate, arguments),
                    kept(m, seed, rate, arguments),
                )
                for m, seed, rate in jobs
            ]
            for done in as_completed(running):
                table.add(done.result())
    table.show(arguments.tokens)


def run_folder(model: Model, seed: int, rate: float, arguments: argparse.Namespace) -> Path:
    """The folder of a row's run, which goes on from its last commit there after a stop."""
    name = re.sub("[^a-z0-9]+", "-", model.name.lower().replace("/", "-over-"))
    return arguments.json.with_suffix(".runs") / f"{name}-{arguments.tokens}-{rate:g}-{seed}"


def kept(model: Model, seed: int, rate: float, arguments: argparse.Namespace) -> Path | None:
    """Where to leave a row's weights: of the kept model's first seed at the fixed rate."""
    first = model.kept and seed == 0 and rate == FIXED_RATE
    return arguments.json.with_suffix(".checkpoint") if first else None


def rates(model: Model, seed: int, arguments: argparse.Namespace, table: Table) -> list[float]:
    """Which learning rates a row is run at."""
    if not model.claimed or arguments.seeds == 1:
        return [FIXED_RATE]
    if seed == 0:
        return list(RATES)
    return [min(RATES, key=lambda rate: table.loss(model, 0, arguments.tokens, rate))]


def build_shards(texts: list[Path] | None, out: Path) -> Path:
    """Shards of the texts, built once."""
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        texts = texts or [*benchmark_texts(out.parent), *package_texts()]
        build(texts, out, vocabulary_size=VOCABULARY, sequence_length=256, held_out=0.03)
    return out


class Table(RowsFile):
    """The rows so far, in their file."""

    def add(self, row: dict[str, Any]) -> None:
        """Append a row, write the file, and say so."""
        super().add(row)
        print(_line(row), flush=True)

    def find(self, model: Model, seed: int, tokens: int, rate: float) -> dict[str, Any] | None:
        """The row of that run, if it is there."""
        for row in self.rows:
            same_tokens = abs(row["tokens"] - tokens) < 4096
            if (row["name"], row["seed"], row["learning_rate"]) == (model.name, seed, rate) and same_tokens:
                return dict(row)
        return None

    def loss(self, model: Model, seed: int, tokens: int, rate: float) -> float:
        """That run's validation loss at the model depth."""
        row = self.find(model, seed, tokens, rate)
        return row["validation_loss"][str(model.depth)] if row else float("inf")

    def show(self, tokens: int) -> None:
        """All rows, the claims at this number of tokens, and the figure."""
        rows = self.rows
        for row in rows:
            print(_line(row))
        claims, gains, identity = judged(rows, tokens), gain_per_flop(rows, tokens), linear_identity()
        self.write(claims=claims, gain_per_flop=gains, linear_identity=identity)
        plot(rows, tokens, self._path.with_suffix(".png"))
        print("\nDifferences of validation perplexity, paired by seed, with 95 % intervals:")
        for claim in claims:
            print(f"  {claim['verdict']:<8} {claim['measured']:<28} {claim['claim']} ({claim['bar']})")
        for gain in gains:
            print(
                f"  from N = {gain['from']} to {gain['to']}: {gain['nats_per_mflop']:+.4f} nats "
                "for each extra million forward FLOPs and token"
            )
        print(
            "  linear, K = D, given the ordinary model's weights: largest difference of logits "
            f"{identity:.1e}"
        )


def _line(row: dict[str, Any]) -> str:
    losses = "  ".join(f"N={n} {loss:.3f}" for n, loss in row["validation_loss"].items())
    return (
        f"{row['name']:<42} {row['parameters']:>9,} seed {row['seed']} lr {row['learning_rate']:g} "
        f"train {row['train_loss']:.3f}  {losses}"
    )


if __name__ == "__main__":
    main()
