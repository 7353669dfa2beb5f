"""The figures of an analysis page."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import plotly.graph_objects as go

from launcher.analysis.pages import plots
from launcher.analysis.pages.pairs import pairs
from odeformer.analysis.content import Analysis


def figures(content: Analysis) -> dict[str, Any]:
    """Plotly's data and layout of each figure, by its place in the page."""
    drawn = {
        "pairs": pairs(content),
        "loss": loss(content),
        "distance": distance(content),
        "work": work(content),
        "spectra-query_key": eigenvalues(content, "query_key"),
        "spectra-output_value": eigenvalues(content, "output_value"),
        "spectra-feed_forward": feed_forward(content),
        "radius": radius(content),
        "exponents": exponents(content),
        "clustering": clustering(content),
    }
    if content["calibration"]["depths"]:
        drawn["calibration"] = calibration(content)
    if content["robustness"]["rows"]:
        drawn["robustness"] = robustness(content)
    return plots.as_json(drawn)


def loss(content: Analysis) -> go.Figure:
    """Mean loss against N."""
    by_depth = content["depth"]
    figure = plots.blank("N, cells of the solve", "loss, nats per token")
    hover = "N = %{x}: %{y:.4f} nats, %{customdata:.3g} ms<extra></extra>"
    line = plots.Line("loss", by_depth["depths"], by_depth["loss"])
    plots.add_line(figure, line, plots.BLUE, customdata=by_depth["milliseconds"], hovertemplate=hover)
    return figure.update_xaxes(type="log", tickvals=by_depth["depths"])


def distance(content: Analysis) -> go.Figure:
    """Distance of the solve at N from its limit."""
    by_depth = content["depth"]
    depths, distances = by_depth["depths"], by_depth["distance"]
    figure = plots.blank("N, cells of the solve", f"distance from N = {by_depth['settings']['limit']}")
    hover = "N = %{x}: %{y:.3g}<extra></extra>"
    plots.add_line(figure, plots.Line("measured", depths, distances), plots.BLUE, hovertemplate=hover)
    if distances[-1]:
        halving = [distances[-1] * depths[-1] / n for n in depths]
        plots.add_line(figure, plots.Line("1/N", depths, halving), plots.GREY, "dash", markers=False)
    return figure.update_xaxes(type="log", tickvals=depths).update_yaxes(type="log")


def work(content: Analysis) -> go.Figure:
    """Speed of the states along t, and how much they turn."""
    by_depth = content["depth"]
    figure = plots.blank("t, the continuous layer index", "speed (bars)")
    middles = [(start + end) / 2 for start, end in pairwise(by_depth["t"])]
    figure.add_bar(x=middles, y=by_depth["speed"], name="speed", marker_color=plots.BLUE)
    plots.add_line(
        figure, plots.Line("turning, rad", by_depth["t"][1:-1], by_depth["turning"]), plots.ORANGE, yaxis="y2"
    )
    return figure.update_layout(
        yaxis2={"overlaying": "y", "side": "right", "rangemode": "tozero", "title": "turning, rad"}
    )


def eigenvalues(content: Analysis, product: Literal["query_key", "output_value"]) -> go.Figure:
    """Eigenvalues of all heads in the complex plane, relative to the norm, with a frame for each t."""
    spectrum = content["spectra"]["model"][product]
    clouds = []
    for heads, norms in zip(spectrum["eigenvalues"], spectrum["norm"], strict=True):
        by_head = zip(heads, norms, strict=True)
        clouds.append([[[x / norm, y / norm] for x, y in head] for head, norm in by_head])
    names = [f"head {i + 1}" for i in range(len(clouds[0]))]
    return _plane(content["spectra"]["settings"]["times"], clouds, names)


def feed_forward(content: Analysis) -> go.Figure:
    """Eigenvalues of the feed-forward part's Jacobian at some tokens' states, with a frame for each t."""
    spectrum = content["spectra"]["feed_forward"]
    names = [f"token {token + 1}" for token in spectrum["tokens"]]
    return _plane(spectrum["times"], spectrum["eigenvalues"], names)


def radius(content: Analysis) -> go.Figure:
    """Largest |eigenvalue| / norm along t, for the model and an untrained one."""
    figure = plots.blank("t, the continuous layer index", "largest |eigenvalue| / norm")
    for index, line in enumerate(plots.radius_lines(content)):
        plots.add_line(figure, line, plots.SERIES[index], markers=False)
    for index, line in enumerate(plots.radius_lines(content, untrained=True)):
        untrained = line._replace(label=f"{line.label}, untrained")
        plots.add_line(figure, untrained, plots.SERIES[index], "dot", markers=False)
    return figure


def exponents(content: Analysis) -> go.Figure:
    """Growth of the leading directions along t."""
    figure = plots.blank_growth("t, the continuous layer index", "growth for each unit of t")
    for rank, value in enumerate(content["lyapunov"]["values"][:4]):
        line = plots.local_exponents(content, rank)._replace(
            label=f"direction {rank + 1}: {value:.2f} in all"
        )
        plots.add_line(figure, line, plots.SERIES[rank])
    return figure


def clustering(content: Analysis) -> go.Figure:
    """Measures of clustering along t, with the model's weights, constant ones and shuffled cells."""
    measures = content["clustering"]
    variants = {"": measures["model"], ", constant": measures["constant"], ", shuffled": measures["shuffled"]}
    figure = plots.blank("t, the continuous layer index", "value")
    for dash, (suffix, values) in zip(("solid", "dot", "dash"), variants.items(), strict=True):
        for index, line in enumerate(plots.clustering_lines(measures["t"], values)):
            line = line._replace(label=line.label + suffix)
            plots.add_line(figure, line, plots.SERIES[index], dash, markers=False)
    return figure


def calibration(content: Analysis) -> go.Figure:
    """Reliability diagram at each depth."""
    figure = plots.blank_calibration()
    hover = "confidence %{x:.2f}, accuracy %{y:.2f}, %{customdata} predictions<extra></extra>"
    for index, (depth, judged) in enumerate(content["calibration"]["depths"].items()):
        counts = [count for count in judged["counts"] if count]
        line = plots.reliability_line(judged, f"N = {depth}: ")
        plots.add_line(figure, line, plots.SERIES[index], customdata=counts, hovertemplate=hover)
    return figure


def robustness(content: Analysis) -> go.Figure:
    """Bits per character that each disturbance adds at each depth."""
    rows, depths = content["robustness"]["rows"], content["robustness"]["settings"]["depths"]
    labels = [row["label"] for row in rows]
    figure = plots.blank_rises(labels)
    for index, depth in enumerate(depths):
        plots.add_rises(
            figure, labels, [row["rise"][index] for row in rows], f"N = {depth}", plots.SERIES[index]
        )
    return figure


Cloud = list[list[float]]
"""Points in the complex plane, [real, imaginary] each."""


def _plane(times: Sequence[float], clouds: Sequence[Sequence[Cloud]], names: Sequence[str]) -> go.Figure:
    """The complex plane with a cloud for each name, and a slider in t."""

    def traces(at: Sequence[Cloud]) -> list[go.Scatter]:
        return [
            go.Scatter(
                x=[real for real, _ in points],
                y=[imaginary for _, imaginary in points],
                mode="markers",
                name=name,
                marker={"color": plots.SERIES[index % len(plots.SERIES)], "size": 5, "opacity": 0.7},
                hovertemplate="%{x:.3f} + %{y:.3f} i<extra>" + name + "</extra>",
            )
            for index, (name, points) in enumerate(zip(names, at, strict=True))
        ]

    figure = plots.blank("real part", "imaginary part")
    figure.add_traces(traces(clouds[0]))
    figure.frames = [go.Frame(data=traces(at), name=f"{t:.2f}") for t, at in zip(times, clouds, strict=True)]

    reach = 1.08 * max(abs(value) for at in clouds for points in at for point in points for value in point)
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
