"""Which figures have moved, in words and as a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from rich.table import Table

Format = Callable[[float], str]


class Words(NamedTuple):
    """How a figure is called and written."""

    label: str
    up: str
    """What it means that it has risen: a sentence about the new text."""
    down: str
    value: str
    """A format."""

    def written(self, value: float, sign: bool = False) -> str:
        return f"{value:{'+' if sign else ''}{self.value}}"


WORDS = {
    "loss": Words(
        "loss, nats per token", "The model predicts it worse", "The model predicts it better", ".3f"
    ),
    "calibration_gap": Words(
        "too sure of itself by",
        "Its percentages promise more than they did, beside what comes true",
        "Its percentages promise less than they did, beside what comes true",
        ".3f",
    ),
    "entropy": Words(
        "uncertainty, nats", "The model is less sure of itself", "The model is surer of itself", ".3f"
    ),
    "leading_exponent": Words(
        "leading exponent", "Small differences grow more", "Small differences grow less", ".3f"
    ),
    "noise_growth": Words(
        "1 % of noise becomes (%)",
        "Noise on the input does more",
        "Noise on the input does less",
        ".3f",
    ),
    "tokens_leaned_on": Words(
        "tokens leaned on",
        "Predictions lean on more tokens at once",
        "Predictions lean on fewer tokens",
        ".2f",
    ),
}


class Row(NamedTuple):
    """A figure of both texts, as it is read."""

    label: str
    reference: str
    new: str
    difference: str
    interval: str
    p: str
    moved: bool


def rows(content: dict[str, Any]) -> list[Row]:
    """Of every figure of a ``drift.json``."""
    return [
        Row(
            words.label,
            words.written(of["reference"]),
            words.written(of["new"]),
            words.written(of["difference"]["mean"], sign=True),
            f"{words.written(of['difference']['low'], sign=True)} to "
            f"{words.written(of['difference']['high'], sign=True)}",
            p_value(of["p_adjusted"]),
            of["moved"],
        )
        for words, of in ((WORDS[name], of) for name, of in content["figures"].items())
    ]


def table(content: dict[str, Any]) -> Table:
    """The same for a terminal."""
    made = Table("figure", box=None, header_style="bold", pad_edge=False)
    for title in ("reference", "new", "difference", "95 %", "p, adjusted"):
        made.add_column(title, justify="right")
    made.add_column("")
    for row in rows(content):
        *values, has_moved = row
        made.add_row(*values, "moved" if has_moved else "")
    return made


def headline(content: dict[str, Any]) -> str:
    """The answer."""
    count = len(content["moved"])
    if not count:
        return "Nothing has moved."
    return f"{count} of {len(content['figures'])} figures {'has' if count == 1 else 'have'} moved."


def verdict(content: dict[str, Any]) -> list[str]:
    """It, a sentence for each figure that has moved, and how far to trust it."""
    said = [headline(content)]
    for name in content["moved"]:
        of, words = content["figures"][name], WORDS[name]
        rises = of["difference"]["mean"] > 0
        said.append(
            f"{words.up if rises else words.down}: {words.label} {words.written(of['reference'])} → "
            f"{words.written(of['new'])} (p {p_value(of['p_adjusted'])})."
        )
    return [*said, trust(content)]


def trust(content: dict[str, Any]) -> str:
    """How far."""
    counts = [len(content["texts"][who]["window_starts"]) for who in ("reference", "new")]
    return (
        f"{counts[0]} windows of the reference and {counts[1]} of the new text, "
        f"{content['settings']['window']} tokens each. Windows of one text are not independent, so true "
        "intervals are wider and true p-values larger: take a single small move for a hint."
    )


def p_value(p: float) -> str:
    """To two digits."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"
