"""What a model reaches and costs at each depth, found out when it is registered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OWN_DEPTH = 0
"""In ``scores``: the model depth, where the run does not say which it is."""

LONGEST, MOST_FLOPS = 256, 5e11
"""Passes are timed over one sequence of at most so many tokens, where the deepest takes at most so many
FLOPs: seconds of a slow machine."""


@dataclass(frozen=True)
class DepthRow:
    """At one N."""

    depth: int
    score: float | None
    """On the validation set; None where it was not measured there."""
    relative_cost: float | None
    """FLOPs of a forward pass, against the model depth's; None where a tolerance decides it."""
    milliseconds: float | None
    """Of that pass, where it was timed: the fastest of seven, since others may use the machine, too."""


@dataclass(frozen=True)
class DepthTable:
    """By N, from the least."""

    model_depth: int
    metric: str
    rows: tuple[DepthRow, ...]
    tokens: int
    """Of the sequence that costs and times are of."""


def depth_table(folder: Path, metric: str, scores: Mapping[int, float]) -> DepthTable:
    """The table of a checkpoint folder's model: at D/2, D, 2D, and wherever there is a score."""
    from odeformer import checkpoint
    from odeformer.measure.cost import forward_flops, measure_depths

    config, solver = checkpoint.load_config(folder)
    scores = _by_depth(scores, config.depth)
    depths = sorted(
        {max(config.prelude_layers + 1, config.depth // 2), config.depth, 2 * config.depth, *scores}
    )
    assert config.context_length is not None
    tokens = min(config.context_length, LONGEST)
    flops = {depth: forward_flops(config, solver, depth, tokens) for depth in depths}
    times: dict[int, float] = {}
    if max(flops.values()) <= MOST_FLOPS:
        timed = measure_depths(
            checkpoint.load(folder), depths, batch=1, sequence_length=tokens, of_rounds=min
        )
        times = {row.depth: row.milliseconds for row in timed.rows}
    rows = [
        DepthRow(depth, scores.get(depth), flops[depth] / flops[config.depth], times.get(depth))
        for depth in depths
    ]
    return DepthTable(config.depth, metric, tuple(rows), tokens)


def adapter_table(base: dict[str, Any], metric: str, scores: Mapping[int, float]) -> DepthTable:
    """An adapter's table: its own scores, and the costs of its base, into whose weights it is added.

    Args:
        base: the ``depths.json`` of the base.
    """
    costs = {row["depth"]: row for row in base["rows"]}
    scores = _by_depth(scores, base["model_depth"])
    rows = tuple(
        DepthRow(
            depth,
            scores.get(depth),
            costs.get(depth, {}).get("relative_cost"),
            costs.get(depth, {}).get("milliseconds"),
        )
        for depth in sorted({*costs, *scores})
    )
    return DepthTable(base["model_depth"], metric, rows, base["tokens"])


def _by_depth(scores: Mapping[int, float], model_depth: int) -> dict[int, float]:
    return {model_depth if depth == OWN_DEPTH else depth: score for depth, score in scores.items()}
