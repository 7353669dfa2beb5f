"""Figures of two analyses in one plot each: colour says which model, dashes say what."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go

from launcher.analysis.pages.colours import BLUE, GREY, ORANGE
from launcher.analysis.pages.figures import SPECTRA, add_rises, blank, blank_rises, largest_eigenvalues

NAMES, COLOURS, DASHES = ("A", "B"), (BLUE, ORANGE), ("solid", "dot", "dashdot")


def figures(a: dict[str, Any], b: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """By the name of its place in the page, each figure's data and layout: of two analyses and their
    ``comparison.json``."""
    both = (a, b)
    made = {
        "loss": loss(both),
        "exponents": exponents(both),
        "local": local_exponents(both),
        "radius": radius(both),
        "clustering": clustering(both),
    }
    if all(of["calibration"]["depths"] for of in both):
        made["calibration"] = calibration(both)
    if content["disturbances"] is not None:
        made["disturbances"] = disturbances(content["disturbances"])
    return {name: json.loads(figure.to_json()) for name, figure in made.items()}


def loss(both: Sequence[dict[str, Any]]) -> go.Figure:
    """Mean loss against N."""
    figure = blank("N, cells of the solve", "loss, nats per token")
    for which, content in enumerate(both):
        _line(figure, which, content["depth"]["depths"], content["depth"]["loss"])
    ticks = sorted({n for content in both for n in content["depth"]["depths"]})
    return figure.update_xaxes(type="log", tickvals=ticks)


def calibration(both: Sequence[dict[str, Any]]) -> go.Figure:
    """The reliability diagram, each at the depth of its analysis."""
    figure = blank("how sure the model was", "how often it was right")
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", name="perfect", line={"color": GREY, "dash": "dash"})
    for which, content in enumerate(both):
        of = content["calibration"]["depths"][str(content["settings"]["depth"])]
        filled = [i for i, count in enumerate(of["counts"]) if count]
        x, y = ([of[name][i] for i in filled] for name in ("confidence", "accuracy"))
        _line(figure, which, x, y, f"off by {of['expected_error']:.3f}")
    return figure.update_layout(xaxis_range=[-0.03, 1.03], yaxis_range=[-0.03, 1.03])


def exponents(both: Sequence[dict[str, Any]]) -> go.Figure:
    """The leading exponents of the whole way."""
    figure = blank("direction, the strongest first", "exponent, whole depth")
    for which, content in enumerate(both):
        values = content["lyapunov"]["values"]
        _line(figure, which, list(range(1, len(values) + 1)), values)
    return figure.add_hline(y=0, line={"color": GREY, "width": 1})


def local_exponents(both: Sequence[dict[str, Any]]) -> go.Figure:
    """Growth of the strongest direction along t, behind the prelude, a jump that would hide all else."""
    figure = blank("t, the continuous layer index", "growth for each unit of t")
    for which, content in enumerate(both):
        of, first = content["lyapunov"], content["settings"]["prelude"]
        middles = [(start + end) / 2 for start, end in pairwise(of["edges"][first:])]
        _line(figure, which, middles, [row[0] for row in of["local"][first:]])
    return figure.add_hline(y=0, line={"color": GREY, "width": 1})


def radius(both: Sequence[dict[str, Any]]) -> go.Figure:
    """The largest |eigenvalue| over the norm along t, the mean over heads."""
    figure = blank("t, the continuous layer index", "largest |eigenvalue| / norm")
    for dash, (part, label) in enumerate(SPECTRA.items()):
        for which, content in enumerate(both):
            times = content["spectra"]["settings"]["times"]
            values = largest_eigenvalues(content["spectra"]["model"][part])
            _line(figure, which, times, values, label, dash)
    return figure


def clustering(both: Sequence[dict[str, Any]]) -> go.Figure:
    """Three measures of clustering along t."""
    figure = blank("t, the continuous layer index", "value")
    labels = {
        "effective_rank": "effective rank / first one",
        "mean_cosine": "mean cosine",
        "nearest": "nearest neighbour",
    }
    for dash, (name, label) in enumerate(labels.items()):
        for which, content in enumerate(both):
            values = content["clustering"]["model"][name]
            if name == "effective_rank":
                values = [None if v is None or not values[0] else v / values[0] for v in values]
            _line(figure, which, content["clustering"]["t"], values, label, dash)
    return figure


def disturbances(of: dict[str, Any]) -> go.Figure:
    """What each disturbance adds to the loss of both, or of the one that was looked at so."""
    figure = blank_rises([row["label"] for row in of["rows"]])
    for which, who in enumerate("ab"):
        rows = [row for row in of["rows"] if row[who] is not None]
        if rows:
            labels, rises = [row["label"] for row in rows], [row[who] for row in rows]
            add_rises(figure, labels, rises, NAMES[which], COLOURS[which])
    return figure


def _line(
    figure: go.Figure, which: int, x: Sequence[Any], y: Sequence[Any], label: str = "", dash: int = 0
) -> None:
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines" if dash or len(x) > 16 else "lines+markers",
        name=f"{NAMES[which]}: {label}" if label else NAMES[which],
        line={"color": COLOURS[which], "dash": DASHES[dash]},
    )
