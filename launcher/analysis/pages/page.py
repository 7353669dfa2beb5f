"""The page of an analysis: one HTML file that needs neither the network nor other files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from launcher.analysis.pages.figures import figures
from launcher.analysis.pages.first_screen import cards
from launcher.tables.tokens import percent, shown
from odeformer.analysis.content import Analysis, Spectrum


def page(content: Analysis) -> str:
    """The page of an ``analysis.json``."""
    sensitivity = content["sensitivity"]
    return render(
        "analysis.html",
        content=content,
        cards=cards(content),
        tokens=tokens(content),
        figures=figures(content),
        heat={
            "outputs": sensitivity["outputs"],
            "scores": sensitivity["scores"],
            "predicted": [shown(token) for token in sensitivity["tokens"]],
            "probabilities": sensitivity["probabilities"],
            "depths": content["depth"]["depths"],
        },
        controls=controls(content),
        smoothness=smoothness(content),
    )


def render(template: str, **values: Any) -> str:
    """A page from a template of this folder, with all values escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    # Plotly's own code comes from Plotly, not from a user.
    return environment.get_template(template).render(plotly=Markup(get_plotlyjs()), **values)


def tokens(content: Analysis) -> list[dict[str, object]]:
    """Each token's text, its loss by depth and its gain from depth; the first token has no loss."""
    losses = content["depth"]["token_loss"]
    rows = []
    for i, token in enumerate(content["tokens"]):
        by_depth = [row[i - 1] for row in losses] if i else []
        gain = by_depth[0] - by_depth[-1] if i else None
        rows.append({"text": shown(token), "breaks": "\n" in token, "losses": by_depth, "gain": gain})
    return rows


def controls(content: Analysis) -> str:
    """How much the weights' dependence on t improves the loss, in words."""
    by_depth, depth = content["depth"], content["settings"]["depth"]
    constant = by_depth["controls"]["constant"]
    orders = [loss for loss in by_depth["controls"]["shuffled"] if loss is not None]
    if constant is None or len(orders) < len(by_depth["controls"]["shuffled"]):
        return "The loss without it is not finite."
    own = by_depth["loss"][by_depth["depths"].index(depth)]
    return (
        f"At N = {depth} the loss is {own:.2f} nats per token; with the cells in another order it is "
        f"{min(orders):.2f} to {max(orders):.2f} ({len(orders)} random orders); with the mean of all weights "
        f"in each cell it is {constant:.2f}. No such model was trained."
    )


def smoothness(content: Analysis) -> str:
    """How smooth the spectra are in t, in words."""

    def mean(spectrum: Spectrum) -> str:
        return percent(sum(spectrum["roughness"]) / len(spectrum["roughness"]))

    spectra = content["spectra"]
    shares = {
        name: f"{mean(spectra['model'][name])} ({mean(spectra['random'][name])} before any training)"
        for name in ("query_key", "output_value")
    }
    return (
        "The variation of the largest eigenvalues from one t to the next, relative to a random order, is "
        f"{shares['query_key']} for queries and keys and {shares['output_value']} for outputs and values: "
        "the less, the smoother in t."
    )
