"""The page's figures, as Plotly draws them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go

from launcher.analysis.pages.colours import BLUE, GREY, ORANGE, SERIES

SPECTRA = {
    "query_key": "queries and keys",
    "output_value": "outputs and values",
}


def figures(content: dict[str, Any]) -> dict[str, Any]:
    """By the name of its place in the page, each figure's data and layout; frames where it has a slider."""
    made: dict[str, Callable[[dict[str, Any]], go.Figure]] = {
        "loss": loss,
        "distance": distance,
        "work": work,
        "spectra-query_key": lambda c: eigenvalues(c, "query_key"),
        "spectra-output_value": lambda c: eigenvalues(c, "output_value"),
        "spectra-feed_forward": feed_forward,
        "radius": radius,
        "exponents": exponents,
        "clustering": clustering,
    }
    if content["calibration"]["depths"]:
        made["calibration"] = calibration
    if content["robustness"]["rows"]:
        made["robustness"] = robustness
    return {name: json.loads(make(content).to_json()) for name, make in made.items()}


def loss(content: dict[str, Any]) -> go.Figure:
    """Mean loss against N."""
    of = content["depth"]
    figure = blank("N, cells of the solve", "loss, nats per token")
    figure.add_scatter(
        x=of["depths"],
        y=of["loss"],
        customdata=of["milliseconds"],
        mode="lines+markers",
        line={"color": BLUE},
        hovertemplate="N = %{x}: %{y:.4f} nats, %{customdata:.3g} ms<extra></extra>",
    )
    return figure.update_xaxes(type="log", tickvals=of["depths"])


def distance(content: dict[str, Any]) -> go.Figure:
    """How far the solve at N is from its limit."""
    of = content["depth"]
    figure = blank("N, cells of the solve", f"distance from N = {of['settings']['limit']}")
    figure.add_scatter(
        x=of["depths"],
        y=of["distance"],
        mode="lines+markers",
        name="measured",
        line={"color": BLUE},
        hovertemplate="N = %{x}: %{y:.3g}<extra></extra>",
    )
    last = of["distance"][-1]
    if last:
        figure.add_scatter(
            x=of["depths"],
            y=[last * of["depths"][-1] / n for n in of["depths"]],
            mode="lines",
            name="1/N",
            line={"color": GREY, "dash": "dash"},
        )
    figure.update_xaxes(type="log", tickvals=of["depths"])
    return figure.update_yaxes(type="log")


def work(content: dict[str, Any]) -> go.Figure:
    """How fast states move along t, and how much they turn."""
    of = content["depth"]
    t = of["t"]
    figure = blank("t, the continuous layer index", "speed (bars)")
    middles = [(a + b) / 2 for a, b in pairwise(t)]
    figure.add_bar(x=middles, y=of["speed"], name="speed", marker_color=BLUE)
    figure.add_scatter(
        x=t[1:-1],
        y=of["turning"],
        name="turning, rad",
        yaxis="y2",
        mode="lines+markers",
        line={"color": ORANGE},
    )
    return figure.update_layout(
        yaxis2={"overlaying": "y", "side": "right", "rangemode": "tozero", "title": "turning, rad"}
    )


def eigenvalues(content: dict[str, Any], which: str) -> go.Figure:
    """All heads' eigenvalues in the complex plane, a frame for each t."""
    of = content["spectra"]["model"][which]
    clouds = [[_over(head, norm) for head, norm in zip(*at, strict=True)] for at in _by_time(of)]
    names = [f"head {i + 1}" for i in range(len(clouds[0]))]
    return _plane(content["spectra"]["settings"]["times"], clouds, names)


def feed_forward(content: dict[str, Any]) -> go.Figure:
    """Eigenvalues of the feed-forward part's Jacobian at some tokens' states, a frame for each t."""
    of = content["spectra"]["feed_forward"]
    names = [f"token {token + 1}" for token in of["tokens"]]
    return _plane(of["times"], of["eigenvalues"], names)


def radius(content: dict[str, Any]) -> go.Figure:
    """The largest |eigenvalue| over the norm along t, the mean over heads, beside a fresh model's."""
    figure = blank("t, the continuous layer index", "largest |eigenvalue| / norm")
    times = content["spectra"]["settings"]["times"]
    for index, (which, label) in enumerate(SPECTRA.items()):
        for who, dash in (("model", "solid"), ("random", "dot")):
            figure.add_scatter(
                x=times,
                y=largest_eigenvalues(content["spectra"][who][which]),
                mode="lines",
                name=label if who == "model" else f"{label}, untrained",
                line={"color": SERIES[index], "dash": dash},
            )
    return figure


def largest_eigenvalues(spectrum: dict[str, Any]) -> list[float]:
    """At each t the largest |eigenvalue| over the norm, the mean over heads."""
    return [
        sum(abs(complex(*head[0])) / norm for head, norm in zip(*at, strict=True)) / len(at[0])
        for at in _by_time(spectrum)
    ]


def exponents(content: dict[str, Any]) -> go.Figure:
    """Local exponents along t, of the flow: the prelude is a jump that would hide all else."""
    of, first = content["lyapunov"], content["settings"]["prelude"]
    figure = blank("t, the continuous layer index", "growth for each unit of t")
    edges = of["edges"][first:]
    for rank in range(min(4, len(of["values"]))):
        figure.add_scatter(
            x=[(a + b) / 2 for a, b in pairwise(edges)],
            y=[row[rank] for row in of["local"][first:]],
            mode="lines+markers",
            name=f"direction {rank + 1}: {of['values'][rank]:.2f} in all",
            line={"color": SERIES[rank]},
        )
    return figure.add_hline(y=0, line={"color": GREY, "width": 1})


def clustering(content: dict[str, Any]) -> go.Figure:
    """Three measures of clustering along t: with the own weights, constant ones and shuffled cells."""
    of = content["clustering"]
    figure = blank("t, the continuous layer index", "value")
    labels = {
        "effective_rank": "effective rank / first one",
        "mean_cosine": "mean cosine",
        "nearest": "nearest neighbour",
    }
    for index, (name, label) in enumerate(labels.items()):
        for who, dash in (("model", "solid"), ("constant", "dot"), ("shuffled", "dash")):
            values = of[who][name]
            if name == "effective_rank":
                values = [None if v is None or not values[0] else v / values[0] for v in values]
            figure.add_scatter(
                x=of["t"],
                y=values,
                mode="lines",
                name=label if who == "model" else f"{label}, {who}",
                line={"color": SERIES[index], "dash": dash},
            )
    return figure


def calibration(content: dict[str, Any]) -> go.Figure:
    """The reliability diagram at every depth."""
    figure = blank("how sure the model was", "how often it was right")
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", name="perfect", line={"color": GREY, "dash": "dash"})
    for index, (depth, of) in enumerate(content["calibration"]["depths"].items()):
        filled = [i for i, count in enumerate(of["counts"]) if count]
        figure.add_scatter(
            x=[of["confidence"][i] for i in filled],
            y=[of["accuracy"][i] for i in filled],
            customdata=[of["counts"][i] for i in filled],
            mode="lines+markers",
            name=f"N = {depth}: off by {of['expected_error']:.3f}",
            line={"color": SERIES[index]},
            hovertemplate="sure %{x:.2f}, right %{y:.2f}, %{customdata} predictions<extra></extra>",
        )
    return figure.update_layout(xaxis_range=[-0.03, 1.03], yaxis_range=[-0.03, 1.03])


def robustness(content: dict[str, Any]) -> go.Figure:
    """What each disturbance adds to the loss at each depth, the weakest above the strongest."""
    of = content["robustness"]
    labels = [row["label"] for row in of["rows"]]
    figure = blank_rises(labels)
    for index, depth in enumerate(of["settings"]["depths"]):
        rises = [row["rise"][index] for row in of["rows"]]
        add_rises(figure, labels, rises, f"N = {depth}", SERIES[index])
    return figure


def blank_rises(labels: Sequence[str]) -> go.Figure:
    """A figure without data for :func:`add_rises`, with room for so many disturbances."""
    figure = blank("added bits / character", "")
    figure.update_yaxes(autorange="reversed", tickfont={"size": 11})
    figure.update_xaxes(title_font_size=12)
    return figure.update_layout(height=110 + 56 * len(labels), legend={"y": -0.14})


def add_rises(
    figure: go.Figure, labels: Sequence[str], rises: Sequence[dict[str, float]], name: str, colour: str
) -> None:
    """A bar for each disturbance, with its interval."""
    means = [rise["mean"] for rise in rises]
    figure.add_bar(
        orientation="h",
        y=[label.replace(", ", ",<br>") for label in labels],
        x=means,
        name=name,
        marker_color=colour,
        error_x={
            "type": "data",
            "array": [rise["high"] - mean for rise, mean in zip(rises, means, strict=True)],
            "arrayminus": [mean - rise["low"] for rise, mean in zip(rises, means, strict=True)],
            "color": "#14181c",
            "thickness": 1,
        },
        hovertemplate="%{y}: %{x:+.3f} bits<extra>" + name + "</extra>",
    )


def blank(x: str, y: str) -> go.Figure:
    """A figure without data, with the titles of its axes."""
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


def _plane(times: Sequence[float], clouds: Sequence[Sequence[Any]], names: Sequence[str]) -> go.Figure:
    """Points in the complex plane, a cloud for each name, moved by a slider in t."""

    def traces(at: Sequence[Any]) -> list[go.Scatter]:
        return [
            go.Scatter(
                x=[real for real, _ in points],
                y=[imaginary for _, imaginary in points],
                mode="markers",
                name=name,
                marker={"color": SERIES[index % len(SERIES)], "size": 5, "opacity": 0.7},
                hovertemplate="%{x:.3f} + %{y:.3f} i<extra>" + name + "</extra>",
            )
            for index, (name, points) in enumerate(zip(names, at, strict=True))
        ]

    figure = blank("real part", "imaginary part")
    figure.add_traces(traces(clouds[0]))
    figure.frames = [go.Frame(data=traces(at), name=f"{t:.2f}") for t, at in zip(times, clouds, strict=True)]
    reach = 1.08 * max(max(abs(v) for v in point) for at in clouds for one in at for point in one)
    step = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    slider = {
        "currentvalue": {"prefix": "t = "},
        "pad": {"t": 8},
        "y": -0.16,
        "steps": [
            {"label": frame.name, "method": "animate", "args": [[frame.name], step]}
            for frame in figure.frames
        ],
    }
    return figure.update_layout(
        sliders=[slider],
        xaxis_range=[-reach, reach],
        yaxis_range=[-reach, reach],
        height=480,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        margin={"l": 56, "r": 16, "t": 40, "b": 96},
    )


def _by_time(spectrum: dict[str, Any]) -> list[tuple[list[Any], list[float]]]:
    return list(zip(spectrum["eigenvalues"], spectrum["norm"], strict=True))


def _over(points: Sequence[Sequence[float]], norm: float) -> list[list[float]]:
    return [[real / norm, imaginary / norm] for real, imaginary in points]
