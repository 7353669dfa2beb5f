"""Compute that adapts: does choosing the depth by input or by error beat one fixed depth?

    python -m benchmarks.adaptive --checkpoint DIR --shards DIR --json OUT

Validation loss against the mean number of evaluations of the field for each sequence, the discarded solves
included. ``fixed``: the same N for all. ``by difficulty``: shallow for all, then deep for the part of the
sequences with the highest entropy, or with the greatest gain (an oracle that no estimate can beat), or
drawn at random. ``by error``: dopri5 and bosh3 at tolerances. A plot goes beside the JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import odeformer
from cluster.training.validation import sample_rows
from data.stream import ShardStream
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
    """Measure, print, write and plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="as benchmarks.quality leaves one")
    parser.add_argument("--shards", type=Path, required=True, help="the shards beside it")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = odeformer.load(arguments.checkpoint)
    stream = ShardStream(
        arguments.shards,
        rank=0,
        world_size=1,
        global_batch=1,
        sequence_length=256,
        seed=0,
        split="validation",
    )
    rows = sample_rows(stream, SEQUENCES)
    points = [*fixed(model, rows), *by_difficulty(model, rows), *by_error(model, rows)]
    table = measure_depths(model, FIXED, batch=1, sequence_length=256)
    result = {
        "points": points,
        "latency_ms": {row.depth: row.milliseconds for row in table.rows},
        "D": model.config.depth,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
        "date": time.strftime("%Y-%m-%d"),
    }
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    plot(points, arguments.json.with_suffix(".png"))
    for point in points:
        print(
            f"{point['way']:<28} {point['setting']:<18} {point['evaluations']:7.2f} evaluations  "
            f"{point['loss']:.4f} nats"
        )
    print(verdict(points))
    for row in table.rows:
        print(f"one sequence of 256 tokens at N = {row.depth}: {row.milliseconds:.1f} ms")


@torch.no_grad()
def losses(rows: Tensor, predict: Callable[[Tensor], Any]) -> tuple[Tensor, list[int], Tensor]:
    """Of each sequence: mean loss in nats, evaluations, and the entropy of its predictions."""
    parts, counts, entropies = [], [], []
    for batch in rows.split(BATCH):
        logits, evaluations = predict(batch[:, :-1])
        parts.append(token_losses(logits, batch[:, 1:]).mean(dim=1))
        counts += evaluations
        entropies.append(entropy(logits))
    return torch.cat(parts), counts, torch.cat(entropies)


def point(way: str, setting: str, loss: Tensor, counts: list[int] | Tensor) -> dict[str, Any]:
    """One point of the plot."""
    evaluations = torch.as_tensor(counts, dtype=torch.float64).mean()
    return {"way": way, "setting": setting, "evaluations": float(evaluations), "loss": float(loss.mean())}


def fixed(model: Odeformer, rows: Tensor) -> list[dict[str, Any]]:
    """One depth for all."""
    return [
        point("fixed", f"N = {n}", *losses(rows, lambda ids, n=n: model(ids, depth=n))[:2]) for n in FIXED
    ]


def by_difficulty(model: Odeformer, rows: Tensor) -> list[dict[str, Any]]:
    """Shallow, then deep for some."""
    points = []
    draw = torch.rand(len(rows), generator=torch.Generator().manual_seed(0))
    for shallow, deep in PAIRS:
        first, _, entropies = losses(rows, lambda ids, n=shallow: model(ids, depth=n))
        second, _, _ = losses(rows, lambda ids, n=deep: model(ids, depth=n))
        for part in PARTS:
            threshold = float(entropies.quantile(1 - part))
            seen = losses(
                rows,
                lambda ids, s=shallow, d=deep, th=threshold: solve_by_difficulty(
                    model, ids, shallow=s, deep=d, threshold=th
                ),
            )
            setting = f"{shallow} → {deep}, {part:.0%}"
            points.append(point("by difficulty: entropy", setting, *seen[:2]))
            for way, score in (("by difficulty: oracle", first - second), ("by difficulty: random", draw)):
                hard = score > score.quantile(1 - part)
                loss = torch.where(hard, second, first)
                points.append(point(way, setting, loss, shallow + deep * hard))
    return points


def by_error(model: Odeformer, rows: Tensor) -> list[dict[str, Any]]:
    """Adaptive solvers, each sequence by itself."""
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


def verdict(points: list[dict[str, Any]]) -> str:
    """The best point by entropy, by chance and by the oracle, each against the fixed curve at its cost."""
    curve = sorted((p["evaluations"], p["loss"]) for p in points if p["way"] == "fixed")

    def gap(one: dict[str, Any]) -> float:
        return float(one["loss"] - min(loss for count, loss in curve if count <= one["evaluations"]))

    parts = []
    for way in ("entropy", "random", "oracle"):
        best = min((p for p in points if p["way"] == f"by difficulty: {way}"), key=gap)
        parts.append(f"{way} {gap(best):+.4f} ({best['setting']}, {best['evaluations']:.1f} evaluations)")
    return "nats against the best fixed depth that costs no more, at its best: " + "; ".join(parts)


def plot(points: list[dict[str, Any]], path: Path) -> None:
    """Loss against evaluations, one line or cloud for each way."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for way in dict.fromkeys(p["way"] for p in points):
        mine = sorted((p["evaluations"], p["loss"]) for p in points if p["way"] == way)
        style = "o-" if way == "fixed" or way.startswith("by error") else "x"
        axes.plot([count for count, _ in mine], [loss for _, loss in mine], style, label=way, markersize=5)
    axes.set_xscale("log")
    axes.set_xticks([2, 4, 8, 16, 32, 64], ["2", "4", "8", "16", "32", "64"])
    axes.minorticks_off()
    axes.set_xlabel("evaluations of the field for each sequence, discarded solves included")
    axes.set_ylabel("validation loss (nats per token)")
    lowest = min(p["loss"] for p in points)
    axes.set_ylim(lowest - 0.03, lowest + 0.6)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
