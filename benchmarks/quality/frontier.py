"""A single checkpoint against separately trained models: loss over compute per token, and training cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.bench import Row, subplots
from benchmarks.quality.claims import CHECKPOINT, SEPARATE, best_rows, mean_loss
from benchmarks.quality.rows import Model
from odeformer.measure.cost import unembedding_flops

DEPTHS = (4, 6, 8)
MOST_TRAINING = 0.5
"""The bar: training FLOPs of the one run divided by those of the three separate runs."""


def plot(rows: Sequence[Row], tokens: int, vocabulary_size: int, path: Path) -> None:
    """Draw the checkpoint as a line and the ordinary models as points; nothing without the checkpoint's row.

    Across: forward FLOPs per token, of the layers and the output matrix. Up: loss on held-out text in nats
    per token, a mean over seeds.
    """
    chosen = best_rows(rows, CHECKPOINT, tokens)
    if not chosen:
        return
    per_layer = next(iter(chosen.values()))["cell_flops"]
    output = unembedding_flops(Model("", "none", 8).config(vocabulary_size))
    figure, axes = subplots(figsize=(7, 4.5))

    def compute(depth: int) -> float:
        return (depth * per_layer + output) / 1e6

    losses = [mean_loss(chosen, depth) for depth in DEPTHS]
    axes.plot([compute(n) for n in DEPTHS], losses, "o-", color="tab:blue", label="one checkpoint, any depth")
    separate = {n: best_rows(rows, name, tokens) for n, name in SEPARATE.items()}
    points = {compute(n): mean_loss(of_depth, n) for n, of_depth in separate.items() if of_depth}
    axes.plot(
        points.keys(), points.values(), "D", color="black", label="ordinary transformers, each trained alone"
    )
    for depth, loss in zip(DEPTHS, losses, strict=True):
        axes.annotate(f"{depth} layers", (compute(depth), loss), (0, 10), textcoords="offset points")
    axes.set_xlabel("compute per token (million FLOPs of a forward pass)")
    axes.set_ylabel("loss on held-out text (nats per token)")
    axes.margins(0.15, 0.2)
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=140)


def training_share(rows: Sequence[Row], tokens: int) -> float | None:
    """Training FLOPs of the one run divided by those of the ordinary runs; None until all have been made."""
    runs = [best_rows(rows, name, tokens) for name in (CHECKPOINT, *SEPARATE.values())]
    if not all(runs):
        return None
    one, *separate = (next(iter(by_seed.values()))["training_flops"] for by_seed in runs)
    return float(one / sum(separate))
