"""The page of ``odeformer drift``."""

from __future__ import annotations

import plotly.graph_objects as go

from launcher.analysis.pages.drift_words import WORDS, headline, rows, trust, verdict
from launcher.analysis.pages.page import render
from launcher.analysis.pages.plots import BLUE, ORANGE, as_json, blank
from odeformer.analysis.content import Drift


def page(content: Drift) -> str:
    """The page of a ``drift.json``."""
    return render(
        "drift.html",
        content=content,
        headline=headline(content),
        sentences=verdict(content)[1:-1],
        trust=trust(content),
        rows=rows(content),
        words=WORDS,
        figures=as_json({name: distribution(content, name) for name in content["figures"]}),
    )


def distribution(content: Drift, name: str) -> go.Figure:
    """A figure's distribution over windows as points and a box, the reference above the new text."""
    figure = blank("", "")
    for who, colour in (("new", ORANGE), ("reference", BLUE)):  # from the bottom up
        text = content["texts"][who]
        figure.add_box(
            x=text["windows"][name],
            name=who,
            boxpoints="all",
            jitter=0.6,
            pointpos=0,
            boxmean=True,
            fillcolor="rgba(0, 0, 0, 0)",
            line={"color": colour, "width": 1.5},
            marker={"color": colour, "size": 6, "opacity": 0.5},
            customdata=text["window_starts"],
            hovertemplate="%{x:.4g}, the window from token %{customdata}<extra>" + who + "</extra>",
        )
    return figure.update_layout(height=180, showlegend=False)
