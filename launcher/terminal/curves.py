"""Curves as one line of text each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 64
"""Columns of a curve."""


def sparkline(curve: Mapping[int, float], last: int, low: float, high: float) -> str:
    """A curve over the steps from 0 to ``last``, as bars between ``low`` and ``high``."""
    columns: list[list[float]] = [[] for _ in range(WIDTH)]
    for step, value in curve.items():
        columns[min(WIDTH - 1, WIDTH * step // max(1, last + 1))].append(value)
    return "".join(_bar(values, low, high) for values in columns)


def _bar(values: Sequence[float], low: float, high: float) -> str:
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return " " if not values else "!"
    height = (sum(finite) / len(finite) - low) / (high - low) if high > low else 0.0
    return BARS[min(len(BARS) - 1, max(0, int(height * len(BARS))))]
