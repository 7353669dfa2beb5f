"""Plotly figures in one style."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from odeformer.analysis.content import Analysis, Range, Reliability

BLUE, ORANGE, GREEN, PURPLE, GRAY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#595959"
"""Colors that remain distinct with color vision deficiency (Okabe and Ito 2008)."""
SERIES = (BLUE, ORANGE, GREEN, PURPLE, "#56B4E9", "#E69F00", "#000000", GRAY)
SCALE = ((0.0, "#d6e7f4"), (0.5, BLUE), (1.0, "#001a2e"))
"""Color scale from little to much: the least is darker than a white page."""
SPECTRA = {"query_key": "queries and keys", "output_value": "outputs and values"}
CLUSTERING = {
    "effective_rank": "effective rank / first one",
    "mean_cosine": "mean cosine",
    "nearest": "nearest neighbor",
}


class Line(NamedTuple):
    """The points of a line and its label."""

    label: str
    x: Sequence[float]
    y: Sequence[float | None]


def blank(x: str, y: str) -> go.Figure:
    """A figure without data, with titles of the axes."""
    return go.Figure(
        layout={
            "template": "plotly_white",
            "margin": {"l": 56, "r": 16, "t": 16, "b": 48},
            "font": {"family": "system-ui, sans-serif", "size": 13},
            "xaxis": {"title": x, "automargin": True},
            "yaxis": {"title": y, "automargin": True},
            "legend": {"orientation": "h", "y": -0.28, "yanchor": "top"},
            "height": 380,
        }
    )


def add_line(
    figure: go.Figure, line: Line, color: str, dash: str = "solid", markers: bool = True, **style: Any
) -> None:
    """Add a line, by default with a marker at each point."""
    mode = "lines+markers" if markers else "lines"
    figure.add_scatter(
        x=line.x, y=line.y, name=line.label, mode=mode, line={"color": color, "dash": dash}, **style
    )


def blank_calibration() -> go.Figure:
    """A reliability diagram without data."""
    figure = blank("confidence", "accuracy")
    add_line(figure, Line("perfect", [0, 1], [0, 1]), GRAY, "dash", markers=False)
    return figure.update_layout(xaxis_range=[-0.03, 1.03], yaxis_range=[-0.03, 1.03])


def blank_growth(x: str, y: str) -> go.Figure:
    """A figure without data and a line at zero, between decay and growth."""
    return blank(x, y).add_hline(y=0, line={"color": GRAY, "width": 1})


def blank_rises(labels: Sequence[str]) -> go.Figure:
    """A figure without data for :func:`add_rises`, with room for these disturbances."""
    figure = blank("added bits / character", "")
    figure.update_yaxes(autorange="reversed", tickfont={"size": 11})
    figure.update_xaxes(title_font_size=12)
    return figure.update_layout(height=110 + 56 * len(labels), legend={"y": -0.14})


def add_rises(
    figure: go.Figure, labels: Sequence[str], rises: Sequence[Range], name: str, color: str
) -> None:
    """Add a bar for each disturbance, with its interval."""
    means = [rise["mean"] for rise in rises]
    figure.add_bar(
        orientation="h",
        y=[label.replace(", ", ",<br>") for label in labels],
        x=means,
        name=name,
        marker_color=color,
        error_x={
            "type": "data",
            "array": [rise["high"] - rise["mean"] for rise in rises],
            "arrayminus": [rise["mean"] - rise["low"] for rise in rises],
            "color": "#14181c",
            "thickness": 1,
        },
        hovertemplate="%{y}: %{x:+.3f} bits<extra>" + name + "</extra>",
    )


def reliability_line(judged: Reliability, label: str) -> Line:
    """Accuracy against confidence, without empty bins."""
    filled = [i for i, count in enumerate(judged["counts"]) if count]
    x, y = ([judged["confidence"][i] for i in filled], [judged["accuracy"][i] for i in filled])
    return Line(f"{label}off by {judged['expected_error']:.3f}", x, y)


def local_exponents(content: Analysis, rank: int) -> Line:
    """Growth of one direction along t, after the prelude, whose jump would hide everything else."""
    lyapunov, first = content["lyapunov"], content["settings"]["prelude"]
    middles = [(start + end) / 2 for start, end in pairwise(lyapunov["edges"][first:])]
    return Line("", middles, [row[rank] for row in lyapunov["local"][first:]])


def radius_lines(content: Analysis, untrained: bool = False) -> list[Line]:
    """Largest |eigenvalue| / norm along t, averaged over heads, of each product of weights."""
    spectra = content["spectra"]
    lines = []
    for name, label in SPECTRA.items():
        spectrum = spectra["random" if untrained else "model"][name]
        largest = np.array(spectrum["eigenvalues"], dtype=float)[:, :, 0]
        ratios = np.hypot(largest[..., 0], largest[..., 1]) / np.array(spectrum["norm"], dtype=float)
        values = ratios.mean(axis=1).tolist()
        lines.append(Line(label, spectra["settings"]["times"], values))
    return lines


def clustering_lines(t: Sequence[float], measures: dict[str, list[float]]) -> list[Line]:
    """Three measures of clustering along t; the effective rank is relative to its first value."""
    lines = []
    for name, label in CLUSTERING.items():
        values: list[float | None] = list(measures[name])
        if name == "effective_rank":
            first = values[0]
            values = [None if value is None or not first else value / first for value in values]
        lines.append(Line(label, t, values))
    return lines


def as_json(figures: dict[str, go.Figure]) -> dict[str, Any]:
    """Plotly's data and layout of each figure, and frames if it has a slider."""
    return {name: json.loads(figure.to_json()) for name, figure in figures.items()}
