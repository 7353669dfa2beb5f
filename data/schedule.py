"""The schedule of a mixture: the source of any global position, without looking at those before it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from data.mixture import MixedSource, Mixture, Stage
from data.order import GlobalOrder, groups, in_rows


class Schedule(NamedTuple):
    """The turns of the sources in one period, after which each has had as many turns as its weight."""

    sources: np.ndarray
    """The source of each turn, int64 [period]."""
    before: np.ndarray
    """Number of earlier turns of the same source in the period, int64 [period]."""


@lru_cache(maxsize=64)
def schedule(weights: tuple[int, ...]) -> Schedule:
    """The turns of sources with these weights, whose counts are always within one of their shares.

    This is Tijdeman's solution of the chairman assignment problem (Discrete Mathematics 32, 1980): of the
    k sources with a share above 1/(2k − 2) of a turn more than they have had, the one that first would be too
    late. After n turns no count differs from n · weight / sum by more than 1 − 1/(2k − 2).
    """
    chosen = [source for source, weight in enumerate(weights) if weight]
    period, slack = sum(weights), 2 * len(chosen) - 2
    if slack == 0:
        return Schedule(np.repeat(chosen, period), np.arange(period))
    had = dict.fromkeys(chosen, 0)
    sources, before = np.empty(period, dtype=np.int64), np.empty(period, dtype=np.int64)
    for turn in range(period):
        first = -1
        for source in chosen:
            if slack * (weights[source] * (turn + 1) - period * had[source]) < period:
                continue
            # Compares the deadlines (had + 1 − 1/slack) / weight without rounding.
            if first < 0 or (
                (slack * (had[source] + 1) - 1) * weights[first]
                < (slack * (had[first] + 1) - 1) * weights[source]
            ):
                first = source
        sources[turn], before[turn] = first, had[first]
        had[first] += 1
    return Schedule(sources, before)


class _Segment(NamedTuple):
    """Positions in which neither the weights nor the sources change."""

    begin: int
    weights: tuple[int, ...]
    counts: np.ndarray
    """Number of samples that each source has given before, int64 [sources]."""

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        turns = schedule(self.weights)
        periods, rest = np.divmod(positions - self.begin, len(turns.sources))
        sources = turns.sources[rest]
        places = self.counts[sources] + periods * np.asarray(self.weights)[sources] + turns.before[rest]
        return sources, places

    def counts_at(self, position: int) -> np.ndarray:
        turns = schedule(self.weights)
        periods, rest = divmod(position - self.begin, len(turns.sources))
        in_rest = np.bincount(turns.sources[:rest], minlength=len(self.weights))
        counts: np.ndarray = self.counts + periods * np.asarray(self.weights) + in_rest
        return counts

    def used_up(self, source: int, limit: int) -> int:
        """The position behind the last sample of a source that may give ``limit``, of which one is left."""
        turns = schedule(self.weights)
        periods, rest = divmod(limit - int(self.counts[source]) - 1, self.weights[source])
        turn = int(np.flatnonzero(turns.sources == source)[rest])
        return self.begin + periods * len(turns.sources) + turn + 1


class Plan:
    """The source of each global position of a part of a run, and the position in that source's own order.

    Any position is found without the ones before it.

    Args:
        mixture: the mixture.
        begin: first position of the part.
        taken: number of samples that earlier parts have taken from sources, by digest of their order.
    """

    def __init__(self, mixture: Mixture, begin: int = 0, taken: Mapping[str, int] | None = None) -> None:
        self._mixture = mixture
        self.end: int | None = None
        """The position at which the data end, if they do."""
        self.ended_by: MixedSource | None = None
        """The source whose limit ends them; ``None`` if all sources have reached theirs."""
        self._segments: list[_Segment] = []
        at: float = begin
        counts = np.array([(taken or {}).get(source.order, 0) for source in mixture.sources], dtype=np.int64)
        for stage, later in zip(mixture.stages, (*mixture.stages[1:], None), strict=True):
            until = math.inf if later is None else later.begin
            while self.end is None and at < until:
                at, counts = self._add_segment(stage, int(at), until, counts)
        self._begins = np.array([segment.begin for segment in self._segments], dtype=np.int64)

    def _add_segment(
        self, stage: Stage, begin: int, until: float, counts: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """Add the segment that begins at a position, unless the data end there.

        Returns:
            The end of the segment, and the counts of all sources there.
        """
        limits = [math.inf if source.limit is None else source.limit for source in self._mixture.sources]
        left = [
            weight if count < limit else 0
            for weight, count, limit in zip(stage.weights, counts, limits, strict=True)
        ]
        used_up = (
            source
            for source, weight, rest in zip(self._mixture.sources, stage.weights, left, strict=True)
            if weight and not rest
        )
        self.ended_by = next((source for source in used_up if source.stops), None)
        if self.ended_by is not None or not any(left):
            self.end = begin
            return begin, counts
        divisor = math.gcd(*left)
        segment = _Segment(begin, tuple(weight // divisor for weight in left), counts)
        self._segments.append(segment)
        ends = [
            segment.used_up(i, int(limit)) for i, limit in enumerate(limits) if left[i] and limit < math.inf
        ]
        end = min([until, *ends])
        return end, counts if end == math.inf else segment.counts_at(int(end))

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source of each global position before the end, and the position in its own order.

        Both are int64 [n], as the positions are; these must not be before the beginning of the part.
        """
        sources, places = np.empty_like(positions), np.empty_like(positions)
        segments = np.searchsorted(self._begins, positions, side="right") - 1
        for group in groups(segments):
            segment = self._segments[segments[group[0]]]
            sources[group], places[group] = segment.locate(positions[group])
        return sources, places

    def taken(self, position: int) -> dict[str, int]:
        """Number of samples that each source has given before a position, by digest of its order."""
        index = int(np.searchsorted(self._begins, position, side="right")) - 1
        segment = self._segments[index]
        counts = segment.counts_at(position)
        return {source.order: int(count) for source, count in zip(self._mixture.sources, counts, strict=True)}


class MixedOrder:
    """The global order of samples of a mixture.

    A sample's id is its id in its source plus the number of sequences of all sources before it. Each batch is
    sorted by source and stream, as :meth:`data.order.GlobalOrder.batches` does.
    """

    def __init__(self, orders: Sequence[GlobalOrder], plan: Plan) -> None:
        self.plan = plan
        self.sequences = sum(order.sequences for order in orders)
        self.offsets = np.cumsum([0, *(order.sequences for order in orders)])
        self._orders = orders

    def batches(self, start: int, size: int, count: int) -> np.ndarray:
        """The sample ids of the batches from a position on: int64 [count, size], fewer where the data end."""
        if self.plan.end is not None:
            count = max(0, min(count, (self.plan.end - start) // size))
        positions = np.arange(start, start + size * count)
        sources, places = self.plan.locate(positions)
        keys, ids = np.empty_like(positions), np.empty_like(positions)
        for group in groups(sources):
            source = int(sources[group[0]])
            streams, own = self._orders[source].streamed(places[group])
            keys[group] = (source << 48) + streams
            ids[group] = self.offsets[source] + own
        return in_rows(keys, ids, size)
