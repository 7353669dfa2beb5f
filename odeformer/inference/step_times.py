"""How long a round of decoding steps takes, by depths and rows, on the machine as it is now."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

import torch

from odeformer.inference.rows import DepthRows, Row
from odeformer.inference.sampling import Sampling

SAMPLING = Sampling(temperature=1.0, top_k=None)
"""How a request draws its tokens unless it says otherwise."""


class StepTimes:
    """Predicted milliseconds between two tokens of a stream.

    A step at one depth is a straight line in its rows, measured once. What the machine makes of it now, with
    other processes, other requests' prompts and the sending of the tokens, is a factor that 95 % of the last
    rounds stayed within.

    Args:
        measured: milliseconds of a step with one row, and per further row, by depth.
    """

    ROUNDS, WITHIN = 100, 0.95

    def __init__(self, measured: dict[int, tuple[float, float]]) -> None:
        self._lines = measured
        self._ratios: deque[float] = deque([1.0], maxlen=self.ROUNDS)

    @property
    def factor(self) -> float:
        """How many times as long as measured a round of steps takes now."""
        return sorted(self._ratios)[int(self.WITHIN * (len(self._ratios) - 1))]

    def predicted(self, rows: Mapping[int, int]) -> float:
        """Milliseconds of a round: one step at each depth, with so many rows."""
        return self.factor * self._measured(rows)

    def observe(self, rows: Mapping[int, int], milliseconds: float) -> None:
        """Take a round into account."""
        self._ratios.append(milliseconds / self._measured(rows))

    def _measured(self, rows: Mapping[int, int]) -> float:
        lines = [(self._lines[depth], count) for depth, count in rows.items() if count]
        return sum(first + further * (count - 1) for (first, further), count in lines)


def measured_lines(batches: Mapping[int, DepthRows], several: int) -> dict[int, tuple[float, float]]:
    """Milliseconds of a step and its draws, with one row and per further row, by depth.

    Args:
        batches: the empty batch of each depth.
        several: number of rows of the second measurement.
    """
    lines = {}
    for depth, batch in batches.items():
        rows = [Row([0, 0]) for _ in range(several)]
        taken = {}
        for count, row in enumerate(rows, start=1):
            reading = batch.start()
            batch.read_prompt(row, reading, len(row.ids))
            row.ids.append(0)
            batch.join(row, reading)
            if count in (1, several):
                taken[count] = min(_timed(batch) for _ in range(10))
        for row in rows:
            batch.leave(row)
        further = (taken[several] - taken[1]) / (several - 1) if several > 1 else 0.0
        lines[depth] = (taken[1], max(0.0, further))
    return lines


def _timed(batch: DepthRows) -> float:
    generator, started = torch.Generator().manual_seed(0), time.perf_counter()
    for row, logits in zip(batch.rows, batch.step().float().cpu(), strict=True):
        SAMPLING.draw(logits, generator)
        row.read -= 1
    return 1e3 * (time.perf_counter() - started)
