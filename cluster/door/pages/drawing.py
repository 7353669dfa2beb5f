"""Loss curves as coordinates of an SVG: percent of its width and height, so that its text keeps its size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.door.pages.progress import Point, Progress

TICKS = 4
"""About how many numbers are written at an axis."""
LENGTHS = 40
"""About how many independent parts a smooth line has."""


@dataclass(frozen=True)
class Tick:
    """A number at an axis."""

    percent: float
    text: str


@dataclass(frozen=True)
class Mark:
    """A point with words about it."""

    x: float
    y: float
    title: str


@dataclass(frozen=True)
class Drawing:
    """A chart. Its lines are points ``x,y x,y …`` in percent, y from the top."""

    steps_alone: str
    """The loss of each step, or of some together."""
    training: str
    """The same without the noise of single steps."""
    validation: str
    marks: tuple[Mark, ...]
    steps: tuple[Tick, ...]
    losses: tuple[Tick, ...]
    words: str
    """The chart for those who do not see it."""


def chart(progress: Progress) -> Drawing | None:
    """The chart of a job up to where it is; ``None`` while there is nothing to draw."""
    validations = [
        Point(seen.step, seen.metrics["loss"]) for seen in progress.validations if "loss" in seen.metrics
    ]
    points = [*progress.losses, *validations]
    if not points:
        return None
    values = [point.loss for point in points]
    ticks = nice_numbers(min(values), max(values))
    low, high = min(ticks[0], *values), max(ticks[-1], *values)
    end = max(1, *(point.step for point in points))

    def placed(point: Point) -> tuple[float, float]:
        return round(100 * point.step / end, 2), _height(point.loss, low, high)

    def line(points: Sequence[Point]) -> str:
        return " ".join(f"{x:g},{y:g}" for x, y in map(placed, points))

    places = [step for step in nice_numbers(0, end) if step == int(step) and step <= end]
    return Drawing(
        steps_alone=line(progress.losses),
        training=line(smooth(progress.losses)),
        validation=line(validations),
        marks=tuple(
            Mark(*placed(point), f"validation loss {point.loss:.3f} after step {point.step:,}")
            for point in validations
        ),
        steps=tuple(Tick(round(100 * step / end, 2), f"{int(step):,}") for step in places),
        losses=tuple(Tick(_height(loss, low, high), f"{loss:g}") for loss in ticks),
        words="; ".join(
            f"{name} loss {drawn[0].loss:.3f} at step {drawn[0].step:,}, "
            f"{drawn[-1].loss:.3f} at step {drawn[-1].step:,}"
            for name, drawn in (("training", progress.losses), ("validation", validations))
            if drawn
        ),
    )


def sparkline(points: Sequence[Point]) -> str:
    """A small line without axes or noise, as points of a chart."""
    if len(points) < 2:
        return ""
    points = smooth(points)
    losses = [point.loss for point in points]
    first, last = points[0].step, points[-1].step
    return " ".join(
        f"{100 * (point.step - first) / (last - first):.1f},{_height(point.loss, min(losses), max(losses)):g}"
        for point in points
    )


def smooth(points: Sequence[Point]) -> list[Point]:
    """Each loss averaged with those before it, the nearest most; the more points, the more of them count."""
    each, mean, smoothed = 2 / (1 + max(1.0, len(points) / LENGTHS)), 0.0, list[Point]()
    for number, point in enumerate(points, 1):
        mean += max(each, 1 / number) * (point.loss - mean)
        smoothed.append(Point(point.step, mean))
    return smoothed


def nice_numbers(low: float, high: float) -> list[float]:
    """Round numbers from ``low`` or below to ``high`` or above, about :data:`TICKS` of them."""
    if high <= low:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    each = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / each + 1e-9), math.ceil(high / each - 1e-9)
    return [round(number * each, 12) for number in range(first, last + 1)]


def _height(loss: float, low: float, high: float) -> float:
    return round(100 * (high - loss) / (high - low), 2) if high > low else 50.0
