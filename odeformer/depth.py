"""The layer index as time t in [0, 1]: grids of cells, and the depth drawn for a batch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

from odeformer.section import MOST_LAYERS

Grid = tuple[float, ...]
"""The N + 1 edges of N cells, rising from 0.0 to 1.0."""


def uniform_grid(cells: int) -> Grid:
    """The grid of N equal cells.

    Raises:
        ValueError: for fewer than one cell.
    """
    if cells < 1:
        raise ValueError(f"depth {cells} is too small: at least 1 cell is needed")
    return tuple(i / cells for i in range(cells + 1))


def layered_grid(cells: int, prelude: int, model_depth: int) -> Grid:
    """The grid of N cells in a model of depth D: ``prelude`` cells of width 1/D, then equal cells.

    At N = D all cells are equal.

    Raises:
        ValueError: if no cell is left after the prelude.
    """
    rest = cells - prelude
    if rest < 1:
        least = f"{prelude + 1} cells are" if prelude else "1 cell is"
        raise ValueError(f"depth {cells} is too small: at least {least} needed")
    # One division per edge, so that at N = D the edges are exactly i/D.
    edges = [(prelude * rest + i * (model_depth - prelude)) / (model_depth * rest) for i in range(rest + 1)]
    return (*(i / model_depth for i in range(prelude)), *edges)


def as_grid(depth: int | Grid, prelude: int, model_depth: int) -> Grid:
    """The grid for a ``depth`` argument: :func:`layered_grid` for a number of cells, a grid unchanged.

    Raises:
        ValueError: for too few or too many cells, edges that do not rise from 0 to 1, or edges that do not
            begin with the prelude's.
    """
    if isinstance(depth, int):
        most = max(MOST_LAYERS, 16 * model_depth)
        if depth > most:
            raise ValueError(f"depth {depth} is too large: at most {most} layers are run")
        return layered_grid(depth, prelude, model_depth)
    if len(depth) < 2 or (depth[0], depth[-1]) != (0.0, 1.0) or any(a >= b for a, b in pairwise(depth)):
        raise ValueError(f"a grid's edges must rise from 0.0 to 1.0, not {depth}")
    expected = [i / model_depth for i in range(prelude + 1)]
    if len(depth) < prelude + 2 or any(abs(a - b) > 1e-9 for a, b in zip(depth, expected, strict=False)):
        raise ValueError(f"a grid of this model begins with its prelude's edges, {expected}, not {depth}")
    return depth


def batch_depth(seed: int, step: int, depths: Sequence[int]) -> int:
    """The depth N at which every rank runs an optimizer step, drawn from ``depths``.

    Drawing N per batch is a regularizer on t ↦ W(t): the loss stays low at all depths only if the solution
    hardly depends on the grid. It is the depth counterpart of LayerDrop (Fan et al. 2020, arXiv 1909.11556).
    As a pure function of (seed, step) it needs neither generator state in a checkpoint nor communication.

    Raises:
        ValueError: if ``depths`` is empty.
    """
    if not depths:
        raise ValueError("depths is empty: at least one depth is needed")
    return random.Random(f"depth/{seed}/{step}").choice(depths)
