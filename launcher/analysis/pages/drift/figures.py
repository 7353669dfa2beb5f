"""How each figure is distributed over the windows of both texts."""

from __future__ import annotations

import json
from typing import Any

import plotly.graph_objects as go

from launcher.analysis.pages.colours import BLUE, ORANGE
from launcher.analysis.pages.figures import blank


def figures(content: dict[str, Any]) -> dict[str, Any]:
    """By the figure's name, what Plotly draws: a point for each window, and a box with its mean."""
    return {name: json.loads(both(content, name).to_json()) for name in content["figures"]}


def both(content: dict[str, Any], name: str) -> go.Figure:
    """The reference above the new text."""
    figure = blank("", "")
    for who, colour in (("new", ORANGE), ("reference", BLUE)):  # from below
        of = content["texts"][who]
        figure.add_box(
            x=of["windows"][name],
            name=who,
            boxpoints="all",
            jitter=0.6,
            pointpos=0,
            boxmean=True,
            fillcolor="rgba(0, 0, 0, 0)",
            line={"color": colour, "width": 1.5},
            marker={"color": colour, "size": 6, "opacity": 0.5},
            customdata=of["window_starts"],
            hovertemplate="%{x:.4g}, the window from token %{customdata}<extra>" + who + "</extra>",
        )
    return figure.update_layout(height=180, showlegend=False)
