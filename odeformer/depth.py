"""The layer index as time: grids on [0, 1], and the depth of a batch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import accumulate, pairwise

Grid = tuple[float, ...]
"""The N + 1 edges of N cells, from 0.0 to 1.0, in double precision."""


def uniform_grid(cells: int) -> Grid:
    """N cells of width 1/N.

    Raises:
        ValueError: for fewer than one cell.
    """
    if cells < 1:
        raise ValueError(f"depth {cells} is too small: at least 1 cell is needed")
    return tuple(i / cells for i in range(cells + 1))


def as_grid(depth: int | Grid) -> Grid:
    """The grid that is meant: uniform for a number of cells, else the edges as given.

    Raises:
        ValueError: for fewer than one cell, or edges that do not rise from 0 to 1.
    """
    if isinstance(depth, int):
        return uniform_grid(depth)
    if len(depth) < 2 or (depth[0], depth[-1]) != (0.0, 1.0) or any(a >= b for a, b in pairwise(depth)):
        raise ValueError(f"a grid's edges must rise from 0.0 to 1.0, not {depth}")
    return depth


def batch_grid(seed: int, step: int, cells: int, jitter: float) -> Grid:
    """N cells of widths ∝ 1 + jitter · u, u uniform in ±1: a pure function, as :func:`batch_depth` is.

    It keeps W(t) from being fitted to a few fixed times. Without jitter the cells are equal.

    Raises:
        ValueError: for fewer than one cell, or a jitter outside [0, 1), which could make a cell vanish.
    """
    if not 0 <= jitter < 1:
        raise ValueError(f"jitter {jitter} must be at least 0 and below 1")
    if not jitter:
        return uniform_grid(cells)
    draw = random.Random(f"grid/{seed}/{step}")
    edges = list(accumulate((1 + jitter * draw.uniform(-1, 1) for _ in range(cells)), initial=0.0))
    return (*(edge / edges[-1] for edge in edges[:-1]), 1.0)


def batch_depth(seed: int, step: int, depths: Sequence[int]) -> int:
    """The depth N at which every rank runs this optimizer step: a pure function of its arguments.

    Drawing N per batch is a regulariser on the function t ↦ W(t): only weights whose solution hardly
    depends on the grid keep the loss low on all of them. It is the depth counterpart of LayerDrop
    (Fan et al. 2020, arXiv 1909.11556). Being a function of (seed, step) it needs no generator state
    in a checkpoint, and no communication.

    Raises:
        ValueError: when there is nothing to draw from.
    """
    if not depths:
        raise ValueError("depths is empty: at least one depth is needed")
    return random.Random(f"depth/{seed}/{step}").choice(depths)
