"""The same figures as PNG files, for documents."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from launcher.analysis.pages.colours import BLUE, GREY, ORANGE, SERIES
from launcher.analysis.pages.pairs import draw_pairs


def write_pictures(content: dict[str, Any], folder: Path) -> None:
    """``depth.png``, ``sensitivity.png``, ``pairs.png``, ``exponents.png``, ``clustering.png``,
    ``spectra.png`` and, of a text that is long enough, ``calibration.png`` and ``robustness.png``."""
    drawn = {
        "depth": _depth,
        "sensitivity": _sensitivity,
        "pairs": draw_pairs,
        "exponents": _exponents,
        "clustering": _clustering,
        "spectra": _spectra,
    }
    if content["calibration"]["depths"]:
        drawn["calibration"] = _calibration
    if content["robustness"]["rows"]:
        drawn["robustness"] = _robustness
    for name, draw in drawn.items():
        figure = Figure(figsize=(7, 4), layout="constrained")
        draw(content, figure)
        figure.savefig(folder / f"{name}.png", dpi=120)


def _axes(figure: Figure, x: str, y: str) -> Axes:
    axes = figure.add_subplot(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return axes


def _depth(content: dict[str, Any], figure: Figure) -> None:
    of = content["depth"]
    axes = _axes(figure, "N, cells of the solve", "loss, nats per token")
    axes.set_xscale("log", base=2)
    axes.set_xticks(of["depths"], [str(n) for n in of["depths"]])
    axes.plot(of["depths"], of["loss"], "o-", color=BLUE)


def _sensitivity(content: dict[str, Any], figure: Figure) -> None:
    of = content["sensitivity"]
    scores = of["scores"][-1]
    axes = _axes(figure, "token", f"leaned on ({of['settings']['method']})")
    axes.bar(range(1, len(scores) + 1), scores, color=BLUE)
    axes.set_title(f"the prediction behind token {of['outputs'][-1] + 1}")


def _exponents(content: dict[str, Any], figure: Figure) -> None:
    of, first = content["lyapunov"], content["settings"]["prelude"]
    axes = _axes(figure, "t", "growth for each unit of t")
    middles = [(a + b) / 2 for a, b in pairwise(of["edges"][first:])]
    for rank in range(min(4, len(of["values"]))):
        local = [row[rank] for row in of["local"][first:]]
        axes.plot(middles, local, "o-", color=SERIES[rank], label=f"direction {rank + 1}")
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.legend()


def _clustering(content: dict[str, Any], figure: Figure) -> None:
    of = content["clustering"]
    axes = _axes(figure, "t", "effective rank of the tokens' states")
    axes.plot(of["t"], of["model"]["effective_rank"], color=BLUE, label="this model")
    axes.plot(
        of["t"], of["constant"]["effective_rank"], color=ORANGE, linestyle=":", label="constant weights"
    )
    axes.legend()


def _spectra(content: dict[str, Any], figure: Figure) -> None:
    axes = _axes(figure, "real part, over the norm", "imaginary part, over the norm")
    times = content["spectra"]["settings"]["times"]
    for colour, (which, label) in zip(
        (BLUE, ORANGE),
        (("query_key", "queries and keys"), ("output_value", "outputs and values")),
        strict=True,
    ):
        of = content["spectra"]["model"][which]
        middle = len(times) // 2
        points = [
            (point[0] / norm, point[1] / norm)
            for head, norm in zip(of["eigenvalues"][middle], of["norm"][middle], strict=True)
            for point in head
        ]
        real, imaginary = zip(*points, strict=True)
        axes.scatter(real, imaginary, s=8, color=colour, label=f"{label}, t = {times[middle]:g}")
    axes.legend()


def _calibration(content: dict[str, Any], figure: Figure) -> None:
    axes = _axes(figure, "how sure the model was", "how often it was right")
    axes.plot([0, 1], [0, 1], "--", color=GREY)
    for index, (depth, of) in enumerate(content["calibration"]["depths"].items()):
        filled = [i for i, count in enumerate(of["counts"]) if count]
        axes.plot(
            [of["confidence"][i] for i in filled],
            [of["accuracy"][i] for i in filled],
            "o-",
            color=SERIES[index],
            label=f"N = {depth}",
        )
    axes.legend()


def _robustness(content: dict[str, Any], figure: Figure) -> None:
    of = content["robustness"]
    axes = _axes(figure, "added bits per character", "")
    depths, rows = of["settings"]["depths"], of["rows"]
    height = 0.8 / len(depths)
    for index, depth in enumerate(depths):
        rises = [row["rise"][index] for row in rows]
        means = [rise["mean"] for rise in rises]
        axes.barh(
            [place + (index - (len(depths) - 1) / 2) * height for place in range(len(rows))],
            means,
            height,
            xerr=[
                [mean - rise["low"] for rise, mean in zip(rises, means, strict=True)],
                [rise["high"] - mean for rise, mean in zip(rises, means, strict=True)],
            ],
            color=SERIES[index],
            label=f"N = {depth}",
        )
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows])
    axes.invert_yaxis()
    axes.legend()
