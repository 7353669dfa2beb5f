"""Rows of a fixed length that hold several windows each."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

from data.tasks.example import Window


def packed(windows: Sequence[Window], capacity: int) -> list[list[Window]]:
    """Put windows into rows of at most ``capacity`` tokens, by best fit, the longest first.

    The rows depend on the windows and their order alone.
    """
    rows: list[list[Window]] = []
    free: list[tuple[int, int]] = []  # the room that is left in each row, and its number, sorted
    for window in sorted(windows, key=lambda window: -len(window.ids)):
        at = bisect_left(free, (len(window.ids), 0))
        if at == len(free):
            room, number = capacity, len(rows)
            rows.append([])
        else:
            room, number = free.pop(at)
        rows[number].append(window)
        insort(free, (room - len(window.ids), number))
    return rows
