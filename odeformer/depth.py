"""The layer index as time: grids on [0, 1], and the depth of a batch."""

from __future__ import annotations

import random
from collections.abc import Sequence

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
