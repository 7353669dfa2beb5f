"""The page of a comparison: its tokens and figures. Colors stand for models, dashes for quantities."""

from __future__ import annotations

import plotly.graph_objects as go

from launcher.analysis.pages import plots
from launcher.analysis.pages.comparison_words import cards, verdict
from launcher.analysis.pages.page import render
from launcher.tables.tokens import shown
from odeformer.analysis.content import BOTH, Analysis, Comparison

DASHES = ("solid", "dot", "dashdot")
COLORS = {"A": plots.BLUE, "B": plots.ORANGE}
MOST_CHANGED = 12
BEFORE = 4
"""Tokens shown before one with a changed loss."""


def page(a: Analysis, b: Analysis, content: Comparison) -> str:
    """The page of two ``analysis.json`` and their ``comparison.json``."""
    return render(
        "comparison.html",
        content=content,
        cards=cards(a, b, content),
        tokens=tokens(a["tokens"], content["token_loss"]),
        changed=most_changed(a["tokens"], content["token_loss"]),
        verdict=verdict(content),
        figures=figures(a, b, content),
    )


def tokens(texts: list[str], losses: dict[str, list[float]]) -> list[dict[str, str | float | None]]:
    """Each token's text with both losses, which the first token does not have."""
    rows = []
    for i, text in enumerate(texts):
        values = {name: losses[name][i - 1] if i else None for name in ("a", "b", "difference")}
        rows.append({"text": shown(text), "breaks": "\n" in text, **values})
    return rows


def most_changed(texts: list[str], losses: dict[str, list[float]]) -> list[dict[str, object]]:
    """The tokens whose loss differs most, largest difference first, with the tokens before them."""
    order = sorted(range(len(losses["difference"])), key=lambda i: -abs(losses["difference"][i]))
    rows = []
    for i in order[:MOST_CHANGED]:
        before = shown("".join(texts[max(0, i + 1 - BEFORE) : i + 1]))
        values = {name: losses[name][i] for name in ("a", "b", "difference")}
        rows.append({"position": i + 2, "before": before, "text": shown(texts[i + 1]), **values})
    return rows


def figures(a: Analysis, b: Analysis, content: Comparison) -> dict[str, object]:
    """Plotly's data and layout of each figure, by its place in the page."""
    both = {"A": a, "B": b}
    drawn = {
        "loss": plots.blank("N, cells of the solve", "loss, nats per token"),
        "exponents": plots.blank_growth("direction, the strongest first", "exponent, whole depth"),
        "local": plots.blank_growth("t, the continuous layer index", "growth for each unit of t"),
        "radius": plots.blank("t, the continuous layer index", "largest |eigenvalue| / norm"),
        "clustering": plots.blank("t, the continuous layer index", "value"),
    }
    for name, analysis in both.items():
        by_depth, values = analysis["depth"], analysis["lyapunov"]["values"]
        clusters = analysis["clustering"]
        _add(drawn["loss"], name, [plots.Line("", by_depth["depths"], by_depth["loss"])])
        _add(drawn["exponents"], name, [plots.Line("", list(range(1, len(values) + 1)), values)])
        _add(drawn["local"], name, [plots.local_exponents(analysis, 0)])
        _add(drawn["radius"], name, plots.radius_lines(analysis))
        _add(drawn["clustering"], name, plots.clustering_lines(clusters["t"], clusters["model"]))
    ticks = sorted({*a["depth"]["depths"], *b["depth"]["depths"]})
    drawn["loss"].update_xaxes(type="log", tickvals=ticks)

    if a["calibration"]["depths"] and b["calibration"]["depths"]:
        drawn["calibration"] = plots.blank_calibration()
        for name, analysis in both.items():
            judged = analysis["calibration"]["depths"][str(analysis["settings"]["depth"])]
            _add(drawn["calibration"], name, [plots.reliability_line(judged, "")])
    if content["disturbances"] is not None:
        rows = content["disturbances"]["rows"]
        drawn["disturbances"] = plots.blank_rises([row["label"] for row in rows])
        for which, (name, color) in zip(BOTH, COLORS.items(), strict=True):
            rises = {row["label"]: rise for row in rows if (rise := row[which]) is not None}
            if rises:
                plots.add_rises(drawn["disturbances"], list(rises), list(rises.values()), name, color)
    return plots.as_json(drawn)


def _add(figure: go.Figure, name: str, lines: list[plots.Line]) -> None:
    """Add a model's lines, each with its own dashes."""
    for index, line in enumerate(lines):
        label = f"{name}: {line.label}" if line.label else name
        markers = index == 0 and len(line.x) <= 16
        plots.add_line(figure, line._replace(label=label), COLORS[name], DASHES[index], markers)
