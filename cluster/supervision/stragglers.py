"""Finds the workers that the others wait for in every step, from the phase times in the heartbeats.

Times of collective operations are equal on all ranks, as they wait for each other in them, so a worker
reports the phases that it is alone in.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import NamedTuple

from cluster.runs.heartbeat import KEPT_WINDOWS, Beat

RATIO = 1.2
"""Time of a phase relative to the median of the ranks from which a worker is slow."""
FAST = 1.1
"""The same ratio up to which a worker that was named is as fast as the others again."""
SHARE = 0.05
"""Fraction of the phases' time that it must lose the others in addition."""
WINDOWS = 2
"""Consecutive windows in which this has to be so."""


class Slow(NamedTuple):
    """A worker that is slower than the others."""

    rank: int
    host: str
    phase: str
    ratio: float
    """Time of the phase relative to the median of the ranks."""

    @property
    def reason(self) -> str:
        return (
            f"worker {self.rank} on {self.host}: {self.phase} takes {self.ratio:.2f} × the median of the "
            "workers"
        )


class Stragglers:
    """Compares the ranks of one group, window by window."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._windows: dict[int, dict[int, dict[str, float]]] = {}
        self._compared = -1
        self._in_a_row: dict[tuple[int, str], int] = {}

    def look(self, beats: Iterable[Beat]) -> list[Slow]:
        """The workers that have turned out to be slow since the last call.

        Each is named once, and again only after a window in which it was as fast as the others.
        """
        hosts: dict[int, str] = {}
        for beat in beats:
            hosts[beat["rank"]] = beat["host"]
            for window in beat["windows"]:
                if window["number"] > self._compared:
                    self._windows.setdefault(window["number"], {})[beat["rank"]] = window["phases"]
        found = []
        complete = (number for number, ranks in self._windows.items() if len(ranks) == self._workers)
        for number in sorted(complete):
            found += self._compare(self._windows[number], hosts)
            self._compared = number
        newest = max(self._windows, default=0)
        self._windows = {
            number: ranks
            for number, ranks in self._windows.items()
            if number > max(self._compared, newest - KEPT_WINDOWS)
        }
        return found

    def _compare(self, phases: dict[int, dict[str, float]], hosts: dict[int, str]) -> list[Slow]:
        # The lower median: of two ranks, the slow one is compared with the other.
        medians = {
            phase: statistics.median_low(of_rank[phase] for of_rank in phases.values())
            for phase in phases[min(phases)]
        }
        least = SHARE * sum(medians.values())
        found = []
        for rank, of_rank in phases.items():
            for phase, seconds in of_rank.items():
                median, before = medians[phase], self._in_a_row.get((rank, phase), 0)
                is_slow = seconds > RATIO * median and seconds - median > least
                is_named_still = before >= WINDOWS and seconds > FAST * median
                count = before + 1 if is_slow or is_named_still else 0
                self._in_a_row[rank, phase] = count
                if count == WINDOWS:
                    found.append(Slow(rank, hosts[rank], phase, seconds / median))
        return found
