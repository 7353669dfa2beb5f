"""Two runs compared, as a page."""

from __future__ import annotations

import math
from collections.abc import Mapping

from cluster.runs.record import Curve
from launcher.analysis.pages import plots
from launcher.analysis.pages.page import render
from launcher.runs import Run, Values
from launcher.tables.runs import common_curves, compared_numbers

MOST_POINTS = 1000
"""Points of a curve; a longer one is averaged over equal numbers of steps."""


def page(first: Run, second: Run, differing: Mapping[str, Values]) -> str:
    """The page of a comparison."""
    # Folders are long names, and often differ in their last part alone.
    names = (first.record.folder.name, second.record.folder.name)
    names = (first.name, second.name) if names[0] == names[1] else names
    figures: dict[str, object] = {}
    for name in common_curves(first, second):
        figure = plots.blank("step", name.replace("_", " "))
        for run, label, color in zip((first, second), names, plots.SERIES, strict=False):
            steps, values = thinned(run.record.curves[name])
            plots.add_line(figure, plots.Line(label, steps, values), color, markers=len(steps) < 50)
        figures[name] = figure
    return render(
        "run_comparison.html",
        names=names,
        settings={name: [str(value) for value in values] for name, values in differing.items()},
        numbers=compared_numbers(first, second),
        figures=plots.as_json(figures),
    )


def thinned(curve: Curve) -> tuple[list[float], list[float | None]]:
    """Steps and values of a curve of at most ``MOST_POINTS`` points; values that are not finite are gaps."""
    steps = sorted(curve)
    each = -(-len(steps) // MOST_POINTS)
    x: list[float] = []
    y: list[float | None] = []
    for start in range(0, len(steps), each):
        part = steps[start : start + each]
        finite = [curve[step] for step in part if math.isfinite(curve[step])]
        x.append(sum(part) / len(part))
        y.append(sum(finite) / len(finite) if finite else None)
    return x, y
