"""The report: one HTML file that needs no network and no other file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from launcher.analysis.pages.figures import figures
from launcher.analysis.pages.first_screen import cards
from launcher.analysis.pages.pairs import pairs
from launcher.tables.tokens import percent, shown


def page(content: dict[str, Any]) -> str:
    """The page of an ``analysis.json``."""
    return render(
        "page.html",
        content=content,
        cards=cards(content),
        tokens=tokens(content),
        figures=figures(content) | {"pairs": json.loads(pairs(content).to_json())},
        heat=heat(content),
        controls=controls(content),
        smoothness=smoothness(content),
    )


def render(template: str, **values: Any) -> str:
    """A page from a template of this folder; all that it says is escaped but Plotly's own code."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    # Written by Plotly, not by a user: the only thing that is not escaped.
    return environment.get_template(template).render(plotly=Markup(get_plotlyjs()), **values)


def tokens(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Each token's text, and of every token but the first how much its loss falls with depth."""
    of = content["depth"]
    least, most = of["token_loss"][0], of["token_loss"][-1]
    return [
        {
            "text": shown(token),
            "breaks": "\n" in token,
            "losses": [] if i == 0 else [losses[i - 1] for losses in of["token_loss"]],
            "gain": None if i == 0 else least[i - 1] - most[i - 1],
        }
        for i, token in enumerate(content["tokens"])
    ]


def controls(content: dict[str, Any]) -> str:
    """What the weights' dependence on t is worth for this text, in words."""
    of, depth = content["depth"], content["settings"]["depth"]
    orders, constant = of["controls"]["shuffled"], of["controls"]["constant"]
    if constant is None or None in orders:
        return "The loss without it is not finite."
    own = of["loss"][of["depths"].index(depth)]
    return (
        f"At N = {depth} the loss is {own:.2f} nats per token; with the cells in another order "
        f"{min(orders):.2f} to {max(orders):.2f} ({len(orders)} orders drawn at random); with the mean of "
        f"all their weights in each {constant:.2f}. No such model was trained."
    )


def smoothness(content: dict[str, Any]) -> str:
    """How smooth the spectra are in t, in words."""

    def mean(who: str, which: str) -> float:
        values = content["spectra"][who][which]["roughness"]
        return sum(values) / len(values)

    shares = [
        f"{percent(mean('model', which))} ({percent(mean('random', which))} before any training)"
        for which in ("query_key", "output_value")
    ]
    return (
        f"From one t to the next the largest ones move {shares[0]} as much as they would in random order in "
        f"queries and keys, and {shares[1]} in outputs and values: the less, the smoother in t."
    )


def heat(content: dict[str, Any]) -> dict[str, Any]:
    """What the page's own script needs to colour tokens."""
    of = content["sensitivity"]
    return {
        "outputs": of["outputs"],
        "scores": of["scores"],
        "predicted": [shown(token) for token in of["tokens"]],
        "probabilities": of["probabilities"],
        "depths": content["depth"]["depths"],
    }
