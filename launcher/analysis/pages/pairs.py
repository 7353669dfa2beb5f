"""The heat map of how much of a change of each token arrives at each later one."""

from __future__ import annotations

import html
import math

import plotly.graph_objects as go

from launcher.analysis.pages.plots import SCALE, blank
from launcher.tables.tokens import shown
from odeformer.analysis.content import Analysis


def pairs(content: Analysis) -> go.Figure:
    """Changed tokens across, output tokens down; empty above the diagonal."""
    outputs, growth, texts = content["pairs"]["outputs"], content["pairs"]["growth"], content["tokens"]
    least, most = reach(growth)
    hover = [
        [_told(texts, k, output, value) for k, value in enumerate(row)]
        for output, row in zip(outputs, growth, strict=True)
    ]
    ticks = [least, math.sqrt(least * most), most]
    figure = blank("changed token", "output token")
    figure.add_heatmap(
        x=list(range(1, len(texts) + 1)),
        y=[output + 1 for output in outputs],
        z=logarithms(growth, len(texts), least),
        text=hover,
        hovertemplate="%{text}<extra></extra>",
        hoverongaps=False,
        zmin=math.log10(least),
        zmax=math.log10(most),
        colorscale=SCALE,
        colorbar={
            "orientation": "h",  # above the figure, so that a phone shows it in full width
            "thickness": 12,
            "title": {"text": "growth of a small change, estimated", "side": "top", "font": {"size": 12}},
            "tickvals": [math.log10(tick) for tick in ticks],
            "ticktext": [f"{_read(tick)} ×" for tick in ticks],
        },
    )
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False, autorange="reversed")
    return figure.update_layout(height=520)


def logarithms(growth: list[list[float | None]], length: int, least: float) -> list[list[float | None]]:
    """log₁₀ of the growth, at least that of ``least``: [outputs, length], None for later tokens and numbers
    that are not finite."""
    rows: list[list[float | None]] = []
    for row in growth:
        values = [None if value is None else math.log10(max(value, least)) for value in row]
        rows.append(values + [None] * (length - len(row)))
    return rows


def reach(growth: list[list[float | None]]) -> tuple[float, float]:
    """The smallest and the largest positive number, never equal."""
    positive = [value for row in growth for value in row if value] or [1.0]
    return min(positive), max(*positive, 1.01 * min(positive))


def _told(texts: list[str], changed: int, output: int, value: float | None) -> str:
    before, after = (html.escape(shown(texts[place]), quote=False) for place in (changed, output))
    number = "not finite" if value is None else f"{_read(value)} × as large"
    return f"“{before}” (token {changed + 1})<br>→ “{after}” (token {output + 1}):<br>{number}"


def _read(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
