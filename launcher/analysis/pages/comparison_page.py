"""The page of two analyses of one text."""

from __future__ import annotations

from typing import Any

from launcher.analysis.pages.comparison_disturbances import disturbance_rows, verdict
from launcher.analysis.pages.comparison_figures import figures
from launcher.analysis.pages.comparison_screen import cards, cost_rows
from launcher.analysis.pages.page import render
from launcher.tables.tokens import shown

MOST_CHANGED = 12
BEFORE = 4
"""Tokens shown before one whose loss has changed."""


def page(a: dict[str, Any], b: dict[str, Any], content: dict[str, Any]) -> str:
    """The page of two ``analysis.json`` and the ``comparison.json`` made of them."""
    return render(
        "comparison.html",
        content=content,
        cards=cards(a, b, content),
        costs=cost_rows(content),
        tokens=tokens(a["tokens"], content["token_loss"]),
        changed=most_changed(a["tokens"], content["token_loss"]),
        verdict=verdict(content),
        disturbances=disturbance_rows(content),
        figures=figures(a, b, content),
    )


def tokens(texts: list[str], losses: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Each token's text and, of every one but the first, both losses."""
    none = [None]
    of = zip(texts, none + losses["a"], none + losses["b"], none + losses["difference"], strict=True)  # type: ignore[operator]
    return [
        {"text": shown(text), "breaks": "\n" in text, "a": a, "b": b, "difference": difference}
        for text, a, b, difference in of
    ]


def most_changed(texts: list[str], losses: dict[str, list[float]]) -> list[dict[str, Any]]:
    """The tokens whose loss differs most, the largest difference first, with those before them."""
    order = sorted(range(len(losses["difference"])), key=lambda i: -abs(losses["difference"][i]))
    return [
        {
            "position": i + 2,
            "before": shown("".join(texts[max(0, i + 1 - BEFORE) : i + 1])),
            "text": shown(texts[i + 1]),
            **{who: losses[who][i] for who in ("a", "b", "difference")},
        }
        for i in order[:MOST_CHANGED]
    ]
