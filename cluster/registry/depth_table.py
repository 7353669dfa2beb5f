"""A model's score and cost at several depths, measured when it is registered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

OWN_DEPTH = 0
"""Key in ``scores`` for the model depth, when the run does not record its number."""

LONGEST, MOST_FLOPS = 256, 5e11
"""Passes are timed over one sequence of at most ``LONGEST`` tokens, and only if the deepest takes at most
``MOST_FLOPS``, which is seconds on a slow machine."""


@dataclass(frozen=True)
class DepthRow:
    """Score and cost at one depth N."""

    depth: int
    score: float | None
    """Score on the validation set; ``None`` if it was not measured at this depth."""
    relative_cost: float | None
    """FLOPs of a forward pass relative to the model depth's; ``None`` if a tolerance decides them."""
    milliseconds: float | None
    """Time of that pass, the fastest of seven; ``None`` if it was not timed."""


@dataclass(frozen=True)
class DepthTable:
    """Scores and costs by depth N, in ascending order."""

    model_depth: int
    metric: str
    rows: tuple[DepthRow, ...]
    tokens: int
    """Length of the sequence that costs and times refer to."""


def depth_table(folder: Path, metric: str, scores: Mapping[int, float]) -> DepthTable:
    """The table of a checkpoint: at D/2, D, 2D, and wherever there is a score."""
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
        # The fastest round, because other processes may use the machine, too.
        timed = measure_depths(
            checkpoint.load(folder), depths, batch=1, sequence_length=tokens, of_rounds=min
        )
        times = {row.depth: row.milliseconds for row in timed.rows}
    rows = [
        DepthRow(depth, scores.get(depth), flops[depth] / flops[config.depth], times.get(depth))
        for depth in depths
    ]
    return DepthTable(config.depth, metric, tuple(rows), tokens)


def adapter_table(base: DepthTable, metric: str, scores: Mapping[int, float]) -> DepthTable:
    """The table of an adapter: its own scores, and the costs of its base, whose weights it is merged into."""
    costs = {row.depth: row for row in base.rows}
    scores = _by_depth(scores, base.model_depth)
    rows = [
        replace(costs.get(depth, DepthRow(depth, None, None, None)), score=scores.get(depth))
        for depth in sorted({*costs, *scores})
    ]
    return DepthTable(base.model_depth, metric, tuple(rows), base.tokens)


def _by_depth(scores: Mapping[int, float], model_depth: int) -> dict[int, float]:
    return {model_depth if depth == OWN_DEPTH else depth: score for depth, score in scores.items()}
