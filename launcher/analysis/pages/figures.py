"""The figures of an analysis page."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Literal

import numpy as np
import plotly.graph_objects as go

from launcher.analysis.pages import plots
from launcher.tables.tokens import shown
from odeformer.analysis.content import Analysis


def figures(content: Analysis) -> dict[str, object]:
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
        plots.add_line(figure, plots.Line("1/N", depths, halving), plots.GRAY, "dash", markers=False)
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
    norms = np.array(spectrum["norm"], dtype=float)[..., None, None]
    points = np.array(spectrum["eigenvalues"], dtype=float) / norms
    names = [f"head {i + 1}" for i in range(points.shape[1])]
    return _plane(content["spectra"]["settings"]["times"], points, names)


def feed_forward(content: Analysis) -> go.Figure:
    """Eigenvalues of the feed-forward part's Jacobian at some tokens' states, with a frame for each t."""
    spectrum = content["spectra"]["feed_forward"]
    names = [f"token {token + 1}" for token in spectrum["tokens"]]
    return _plane(spectrum["times"], np.array(spectrum["eigenvalues"], dtype=float), names)


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


def pairs(content: Analysis) -> go.Figure:
    """Changed tokens across, output tokens down; empty above the diagonal."""
    outputs, growth, texts = content["pairs"]["outputs"], content["pairs"]["growth"], content["tokens"]
    least, most = reach(growth)
    hover = []
    for output, row in zip(outputs, growth, strict=True):
        hover.append([_pair_text(texts, k, output, value) for k, value in enumerate(row)])
    ticks = [least, math.sqrt(least * most), most]
    figure = plots.blank("changed token", "output token")
    figure.add_heatmap(
        x=list(range(1, len(texts) + 1)),
        y=[output + 1 for output in outputs],
        z=logarithms(growth, len(texts), least),
        text=hover,
        hovertemplate="%{text}<extra></extra>",
        hoverongaps=False,
        zmin=math.log10(least),
        zmax=math.log10(most),
        colorscale=plots.SCALE,
        colorbar={
            "orientation": "h",  # above the figure, so that a phone shows it in full width
            "thickness": 12,
            "title": {"text": "growth of a small change, estimated", "side": "top", "font": {"size": 12}},
            "tickvals": [math.log10(tick) for tick in ticks],
            "ticktext": [f"{_times(tick)} ×" for tick in ticks],
        },
    )
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False, autorange="reversed")
    return figure.update_layout(height=520)


def logarithms(growth: list[list[float | None]], length: int, least: float) -> list[list[float | None]]:
    """log₁₀ of the growth, at least that of ``least``: [outputs, length].

    Later tokens, and numbers that are not finite, are None.
    """
    rows: list[list[float | None]] = []
    for row in growth:
        values = [None if value is None else math.log10(max(value, least)) for value in row]
        rows.append(values + [None] * (length - len(row)))
    return rows


def reach(growth: list[list[float | None]]) -> tuple[float, float]:
    """The smallest and the largest positive number, never equal."""
    positive = [value for value in chain.from_iterable(growth) if value] or [1.0]
    return min(positive), max(*positive, 1.01 * min(positive))


def _pair_text(texts: list[str], changed: int, output: int, value: float | None) -> str:
    before, after = (html.escape(shown(texts[place]), quote=False) for place in (changed, output))
    number = "not finite" if value is None else f"{_times(value)} × as large"
    return f"“{before}” (token {changed + 1})<br>→ “{after}” (token {output + 1}):<br>{number}"


def _times(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _plane(times: Sequence[float], points: np.ndarray, names: Sequence[str]) -> go.Figure:
    """Points [times, names, n, 2] in the complex plane, with a slider in t."""

    def traces(clouds: np.ndarray) -> list[go.Scatter]:
        return [
            go.Scatter(
                x=cloud[:, 0].tolist(),
                y=cloud[:, 1].tolist(),
                mode="markers",
                name=name,
                marker={"color": plots.SERIES[index % len(plots.SERIES)], "size": 5, "opacity": 0.7},
                hovertemplate="%{x:.3f} + %{y:.3f} i<extra>" + name + "</extra>",
            )
            for index, (name, cloud) in enumerate(zip(names, clouds, strict=True))
        ]

    figure = plots.blank("real part", "imaginary part")
    figure.add_traces(traces(points[0]))
    frames = zip(times, points, strict=True)
    figure.frames = [go.Frame(data=traces(clouds), name=f"{t:.2f}") for t, clouds in frames]

    reach = 1.08 * float(np.nanmax(abs(points)))
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
