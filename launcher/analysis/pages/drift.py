"""The result of ``odeformer drift`` in words, as a table and as a page."""

from __future__ import annotations

from typing import NamedTuple

import plotly.graph_objects as go
from rich.table import Table

from launcher.analysis.pages import plots
from launcher.analysis.pages.page import render
from odeformer.analysis.content import Drift


class Words(NamedTuple):
    """The name, meaning and format of a figure."""

    label: str
    up: str
    """What a rise means for the new text."""
    down: str
    value: str = ".3f"

    def written(self, value: float, sign: bool = False) -> str:
        return f"{value:{'+' if sign else ''}{self.value}}"


WORDS = {
    "loss": Words("loss, nats per token", "The model predicts it worse", "The model predicts it better"),
    "calibration_gap": Words(
        "overconfidence", "The model is more overconfident", "The model is less overconfident"
    ),
    "entropy": Words("entropy, nats", "The model is less certain", "The model is more certain"),
    "leading_exponent": Words(
        "leading exponent", "Small differences grow more", "Small differences grow less"
    ),
    "noise_growth": Words(
        "1 % of noise becomes (%)", "Noise on the input has more effect", "Noise on the input has less effect"
    ),
    "tokens_leaned_on": Words(
        "effective tokens", "Predictions depend on more tokens", "Predictions depend on fewer tokens", ".2f"
    ),
}


class Row(NamedTuple):
    """A figure of both texts, formatted."""

    label: str
    reference: str
    new: str
    difference: str
    interval: str
    p: str
    moved: bool


def rows(content: Drift) -> list[Row]:
    """All figures of a ``drift.json``."""
    formatted = []
    for name, figure in content["figures"].items():
        words, change = WORDS[name], figure["difference"]
        mean, low, high = (words.written(change[key], sign=True) for key in ("mean", "low", "high"))
        reference, new = words.written(figure["reference"]), words.written(figure["new"])
        p = p_value(figure["p_adjusted"])
        formatted.append(Row(words.label, reference, new, mean, f"{low} to {high}", p, figure["moved"]))
    return formatted


def table(content: Drift) -> Table:
    """All figures as a table for the terminal."""
    result = Table("figure", box=None, header_style="bold", pad_edge=False)
    for title in ("reference", "new", "difference", "95 %", "p, adjusted"):
        result.add_column(title, justify="right")
    result.add_column("")
    for row in rows(content):
        *values, has_moved = row
        result.add_row(*values, "moved" if has_moved else "")
    return result


def headline(content: Drift) -> str:
    """The number of figures that have moved."""
    count = len(content["moved"])
    if not count:
        return "Nothing has moved."
    return f"{count} of {len(content['figures'])} figures {'has' if count == 1 else 'have'} moved."


def verdict(content: Drift) -> list[str]:
    """The headline, a sentence for each figure that has moved, and the limits of the tests."""
    sentences = [headline(content)]
    for name in content["moved"]:
        figure, words = content["figures"][name], WORDS[name]
        meaning = words.up if figure["difference"]["mean"] > 0 else words.down
        reference, new = words.written(figure["reference"]), words.written(figure["new"])
        p = p_value(figure["p_adjusted"])
        sentences.append(f"{meaning}: {words.label} {reference} → {new} (p {p}).")
    return [*sentences, trust(content)]


def trust(content: Drift) -> str:
    """The limits of the tests."""
    reference, new = (len(content["texts"][who]["window_starts"]) for who in ("reference", "new"))
    return (
        f"{reference} windows of the reference and {new} of the new text, "
        f"{content['settings']['window']} tokens each. Windows of one text are not independent, so true "
        "intervals are wider and true p-values larger: a single small change is only a hint."
    )


def p_value(p: float) -> str:
    """A p-value to two digits."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


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
        figures=plots.as_json({name: distribution(content, name) for name in content["figures"]}),
    )


def distribution(content: Drift, name: str) -> go.Figure:
    """A figure's distribution over windows as points and a box, the reference above the new text."""
    figure = plots.blank("", "")
    for who, color in (("new", plots.ORANGE), ("reference", plots.BLUE)):  # from the bottom up
        text = content["texts"][who]
        figure.add_box(
            x=text["windows"][name],
            name=who,
            boxpoints="all",
            jitter=0.6,
            pointpos=0,
            boxmean=True,
            fillcolor="rgba(0, 0, 0, 0)",
            line={"color": color, "width": 1.5},
            marker={"color": color, "size": 6, "opacity": 0.5},
            customdata=text["window_starts"],
            hovertemplate="%{x:.4g}, the window from token %{customdata}<extra>" + who + "</extra>",
        )
    return figure.update_layout(height=180, showlegend=False)
