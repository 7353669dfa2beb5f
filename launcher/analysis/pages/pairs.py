"""How much of a change of each token arrives at each other one, as a heat map."""

from __future__ import annotations

import html
import math
from typing import Any

import plotly.graph_objects as go
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure

from launcher.analysis.pages.colours import SCALE
from launcher.analysis.pages.figures import blank
from launcher.tables.tokens import shown

ACROSS, DOWN = "the token that is changed", "the token where it arrives"


def pairs(content: dict[str, Any]) -> go.Figure:
    """Tokens of the input across, tokens at the end of the way down; nothing above the diagonal."""
    of, texts = content["pairs"], content["tokens"]
    least, most = reach(of["growth"])
    figure = blank(ACROSS, DOWN)
    figure.add_heatmap(
        x=list(range(1, len(texts) + 1)),
        y=[output + 1 for output in of["outputs"]],
        z=[[math.log10(value) if value else None for value in row] for row in matrix(content, least)],
        text=[
            [_told(texts, k, output, value) for k, value in enumerate(row)]
            for output, row in zip(of["outputs"], of["growth"], strict=True)
        ],
        hovertemplate="%{text}<extra></extra>",
        hoverongaps=False,
        zmin=math.log10(least),
        zmax=math.log10(most),
        colorscale=SCALE,
        colorbar=_scale(least, most),
    )
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False, autorange="reversed")
    return figure.update_layout(height=520)


def draw_pairs(content: dict[str, Any], figure: Figure) -> None:
    """The same for a document."""
    of = content["pairs"]
    least, most = reach(of["growth"])
    axes = figure.add_subplot(xlabel=ACROSS, ylabel=DOWN)
    drawn = axes.pcolormesh(
        range(1, len(content["tokens"]) + 1),
        [output + 1 for output in of["outputs"]],
        [[math.nan if value is None else value for value in row] for row in matrix(content, least)],
        norm=LogNorm(least, most),
        cmap=LinearSegmentedColormap.from_list("blue", SCALE),
        shading="nearest",
    )
    axes.invert_yaxis()
    figure.colorbar(drawn, label=f"growth, from {of['settings']['probes']} random directions")


def matrix(content: dict[str, Any], least: float) -> list[list[float | None]]:
    """[outputs, tokens], no number below ``least``; None where a token comes later, or for one not finite."""
    of, length = content["pairs"], len(content["tokens"])
    return [
        [None if value is None else max(value, least) for value in row] + [None] * (length - len(row))
        for row in of["growth"]
    ]


def reach(growth: list[list[float | None]]) -> tuple[float, float]:
    """The least and the greatest number that has a logarithm, never the same."""
    there = [value for row in growth for value in row if value] or [1.0]
    return min(there), max(*there, 1.01 * min(there))


def _told(texts: list[str], changed: int, arrived: int, value: float | None) -> str:
    before, behind = (html.escape(shown(texts[place]), quote=False) for place in (changed, arrived))
    number = "not finite" if value is None else f"{_read(value)} × as large"
    return f"“{before}” (token {changed + 1})<br>→ “{behind}” (token {arrived + 1}):<br>{number}"


def _read(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _scale(least: float, most: float) -> dict[str, Any]:
    """Above the figure, so that a phone has its whole width."""
    steps = [least, math.sqrt(least * most), most]
    return {
        "orientation": "h",
        "thickness": 12,
        "title": {"text": "arrives so many times as large, estimated", "side": "top", "font": {"size": 12}},
        "tickvals": [math.log10(step) for step in steps],
        "ticktext": [f"{_read(step)} ×" for step in steps],
    }
