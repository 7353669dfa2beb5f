"""Adaptive depth against one fixed depth: the depth is chosen by input or by the solver's error.

    python -m benchmarks.gradients.adaptive --checkpoint DIR --shards DIR --json OUT

Validation loss against the mean number of evaluations of the field for each sequence, rejected steps
included. ``fixed``: the same N for all. ``by difficulty``: a shallow solve for all, then a deep one for the
fraction of sequences with the highest entropy, with the greatest gain (an oracle that no estimate can beat),
or drawn at random. ``by error``: dopri5 and bosh3 at tolerances.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import odeformer
from benchmarks import bench
from benchmarks.bench import Row
from benchmarks.in_process import SEQUENCE_LENGTH, open_stream
from cluster.training.validation import sample_rows
from odeformer.measure.cost import measure_depths
from odeformer.model import Odeformer, token_losses
from odeformer.research.adaptive import Tolerance, TooManyEvaluationsError, run_adaptively
from odeformer.research.by_difficulty import entropy, solve_by_difficulty

FIXED = (2, 3, 4, 5, 6, 8, 10, 12, 16, 24)
PAIRS = ((4, 8), (4, 16), (8, 16))
PARTS = (0.1, 0.25, 0.5, 0.75)
METHODS = ("dopri5", "bosh3")
TOLERANCES = (1.0, 0.3, 0.1, 0.03, 0.01)
SEQUENCES, BATCH = 192, 16


def main() -> None:
    """Measure all points, print and write them."""
    parser = bench.parser(__doc__)
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="checkpoint that benchmarks.quality.compare saved"
    )
    parser.add_argument("--shards", type=Path, required=True, help="the shards beside that checkpoint")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = odeformer.load(arguments.checkpoint)
    stream = open_stream(arguments.shards, "validation", batch=1)
    rows = sample_rows(stream, SEQUENCES)
    points = [*fixed(model, rows), *by_difficulty(model, rows), *by_error(model, rows)]
    table = measure_depths(model, FIXED, batch=1, sequence_length=SEQUENCE_LENGTH)
    result = {
        "points": points,
        "latency_ms": {row.depth: row.milliseconds for row in table.rows},
        "D": model.config.depth,
        **bench.stamp("torch"),
    }
    bench.save(arguments.json, result)
    for point in points:
        bench.print_row(point)
    print(verdict(points))
    bench.print_row({"milliseconds of a sequence by N": result["latency_ms"]})


@torch.no_grad()
def losses(rows: Tensor, predict: Callable[[Tensor], Any]) -> tuple[Tensor, list[int], Tensor]:
    """The mean loss in nats, evaluations and entropy of the predictions, for each sequence."""
    parts, counts, entropies = [], [], []
    for batch in rows.split(BATCH):
        logits, evaluations = predict(batch[:, :-1])
        parts.append(token_losses(logits, batch[:, 1:]).mean(dim=1))
        counts += evaluations
        entropies.append(entropy(logits))
    return torch.cat(parts), counts, torch.cat(entropies)


def point(way: str, setting: str, loss: Tensor, counts: list[int] | Tensor) -> Row:
    """A row, from the losses and evaluations of all sequences."""
    evaluations = torch.as_tensor(counts, dtype=torch.float64).mean()
    return {"way": way, "setting": setting, "evaluations": float(evaluations), "loss": float(loss.mean())}


def fixed(model: Odeformer, rows: Tensor) -> list[Row]:
    """Points with one depth for all sequences."""
    return [
        point("fixed", f"N = {n}", *losses(rows, lambda ids, n=n: model(ids, depth=n))[:2]) for n in FIXED
    ]


def by_difficulty(model: Odeformer, rows: Tensor) -> list[Row]:
    """Points with a shallow solve for all sequences and a deep one for some."""
    points = []
    draw = torch.rand(len(rows), generator=torch.Generator().manual_seed(0))
    for shallow, deep in PAIRS:
        first, _, entropies = losses(rows, lambda ids, n=shallow: model(ids, depth=n))
        second, _, _ = losses(rows, lambda ids, n=deep: model(ids, depth=n))
        for part in PARTS:
            threshold = float(entropies.quantile(1 - part))
            solve = partial(solve_by_difficulty, model, shallow=shallow, deep=deep, threshold=threshold)
            setting = f"{shallow} → {deep}, {part:.0%}"
            points.append(point("by difficulty: entropy", setting, *losses(rows, solve)[:2]))
            for way, score in (("by difficulty: oracle", first - second), ("by difficulty: random", draw)):
                hard = score > score.quantile(1 - part)
                loss = torch.where(hard, second, first)
                points.append(point(way, setting, loss, shallow + deep * hard))
    return points


def by_error(model: Odeformer, rows: Tensor) -> list[Row]:
    """Points of adaptive solvers, each sequence with its own cells."""
    points = []
    for name in METHODS:
        for tolerance in TOLERANCES:
            allowed = Tolerance(tolerance, tolerance, max_evaluations=600, per_sequence=True)
            try:
                seen = losses(rows, lambda ids, a=allowed, m=name: run_adaptively(model, ids, a, m))
            except TooManyEvaluationsError as stopped:
                print(f"{name}, tolerance {tolerance}: {stopped}")
                break
            points.append(point(f"by error: {name}", f"tolerance {tolerance}", *seen[:2]))
    return points


def verdict(points: list[Row]) -> str:
    """The best point by entropy, at random and by the oracle, against a fixed depth of the same cost."""
    curve = sorted((p["evaluations"], p["loss"]) for p in points if p["way"] == "fixed")

    def gap(point: Row) -> float:
        """Nats above the best fixed depth that costs no more."""
        affordable = [loss for count, loss in curve if count <= point["evaluations"]]
        return float(point["loss"] - min(affordable))

    parts = []
    for way in ("entropy", "random", "oracle"):
        best = min((p for p in points if p["way"] == f"by difficulty: {way}"), key=gap)
        parts.append(f"{way} {gap(best):+.4f} ({best['setting']}, {best['evaluations']:.1f} evaluations)")
    return "nats against the best fixed depth that costs no more, at its best: " + "; ".join(parts)


if __name__ == "__main__":
    main()
