"""The first screen and the tables of a comparison, in words."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from launcher.tables.tokens import percent, shown
from odeformer.analysis.content import BOTH, Analysis, Comparison, Pair

Format = Callable[[float], str]
AS_MUCH = 0.05
"""Relative difference below which two amplifications count as equal."""


class Row(NamedTuple):
    """A figure of both models, formatted."""

    label: str
    a: str
    b: str
    difference: str


class Compared(NamedTuple):
    """The answer of both models to a question of the first screen."""

    question: str
    figure: str
    sentences: tuple[str, ...]
    rows: tuple[Row, ...]


def cards(a: Analysis, b: Analysis, content: Comparison) -> list[Compared]:
    """The questions of the first screen: confidence, sensitivity and cost."""
    return [_how_sure(a, b, content), _how_sensitive(content), _what_it_costs(content)]


def verdict(content: Comparison) -> str:
    """The model that is more robust to disturbances, in a sentence or two; "" without any.

    A model is only called better if it is clearly ahead in at least half of them and behind in none: one pair
    of eight intervals may be disjoint by chance.
    """
    disturbances = content["disturbances"]
    if disturbances is None:
        return ""
    a, b = disturbances["a"], disturbances["b"]
    if a is None or b is None:
        name = "A" if a is None else "B"
        return f"{name} was not analyzed with a disturbed text: analyze it with {name} again to compare."
    if not disturbances["same_text"]:
        return (
            "Which model is more robust cannot be said, as each disturbed as much of the text as fits its "
            f"context: A {a['characters']:,} characters, B {b['characters']:,}."
        )
    less = [row["clearly_less"] for row in disturbances["rows"]]
    ahead = {which: less.count(which) for which in BOTH}
    if not any(ahead.values()):
        return "No clear difference in robustness to a disturbed text: the intervals of both overlap."
    count = len(less)
    better, worse = (a, b) if ahead["a"] > ahead["b"] else (b, a)
    most, least = max(ahead.values()), min(ahead.values())
    if least or most < count / 2:
        return (
            f"Neither is more robust to a disturbed text in general: of {count} disturbances, {ahead['a']} "
            f"cost A clearly less, {ahead['b']} B."
        )
    name = "A" if better is a else "B"
    sentence = (
        f"{name} is more robust to a disturbed text: {most} of {count} disturbances cost it clearly less."
    )
    if better["clean"] > worse["clean"]:
        sentence += " But it predicts the undisturbed text worse, and so has less to lose."
    return sentence


def _how_sure(a: Analysis, b: Analysis, content: Comparison) -> Compared:
    figures = content["figures"]
    tokens = [shown(analysis["answer"]["tokens"][0]) for analysis in (a, b)]
    sure = [percent(value) for value in _known(figures["probability_of_answer"])]
    if a["answer"]["ids"][0] == b["answer"]["ids"][0]:
        agreement = f"Both predict “{tokens[0]}” next: A with {sure[0]}, B with {sure[1]}."
    else:
        agreement = f"They disagree: A predicts “{tokens[0]}” next ({sure[0]}), B “{tokens[1]}” ({sure[1]})."
    error = figures["calibration_error"]["difference"]
    if error is None:
        trust = "The text is too short to say how far these percentages can be trusted."
    elif abs(error) >= 0.01:
        trust = f"{'B' if error < 0 else 'A'} is better calibrated on this text."
    else:
        trust = "Both are equally well calibrated."
    labels = {
        "probability_of_answer": "next token",
        "right": "accuracy",
        "claimed": "confidence",
        "calibration_error": "calibration error",
    }
    rows = [_row(label, figures[name], percent, _points) for name, label in labels.items()]
    return Compared("How sure are they?", f"{sure[0]} → {sure[1]}", (agreement, trust), tuple(rows))


def _how_sensitive(content: Comparison) -> Compared:
    figures = content["figures"]
    noise_a, noise_b = _known(figures["noise_relative"])
    ratio = noise_b / noise_a
    if abs(ratio - 1) < AS_MUCH:
        sentence = "A little noise on the input has the same effect on both."
    else:
        more, times = ("B", ratio) if ratio > 1 else ("A", 1 / ratio)
        sentence = f"A little noise on the input moves {more} more: {times:.3g} × as far at the end."
    changed = figures["changed_by_small_noise"]
    changed_a, changed_b = (percent(value) for value in _known(changed))
    rows = (
        _row("amplification of noise", figures["noise_relative"], "{:.3g} ×".format, "{:+.2g}".format),
        _row("changed by 1 % of noise", changed, percent, _points),
        _row("changed by 10 % of noise", figures["changed_by_large_noise"], percent, _points),
        _row("leading exponent", figures["leading_exponent"], "{:.2f}".format, "{:+.2f}".format),
    )
    second = f"1 % of noise changes {changed_a} of A's predictions, {changed_b} of B's."
    disturbed = () if content["disturbances"] is None else (verdict(content),)
    figure = f"{noise_a:.2g} × → {noise_b:.2g} ×"
    return Compared("How sensitive are they?", figure, (sentence, second, *disturbed), rows)


def _what_it_costs(content: Comparison) -> Compared:
    change, better = content["loss_difference"], content["tokens_better"]
    if change is None or change["low"] <= 0 <= change["high"]:
        sentences = ["On this text neither predicts significantly better."]
    else:
        name, share = ("B", better) if change["mean"] < 0 else ("A", 1 - better)
        sentences = [f"{name} predicts this text better, on {percent(share)} of its tokens."]
    if change is not None:
        sentences.append(
            f"Loss of B minus A: {change['mean']:+.3f} nats per token, "
            f"95 % interval {change['low']:+.3f} to {change['high']:+.3f}."
        )
    rows = []
    for row in content["depths"]:
        perplexity = _perplexity(row["loss"])
        rows.append(_row(f"perplexity, N = {row['depth']}", perplexity, "{:.4g}".format, "{:+.3g}".format))
    a, b = (math.exp(loss) for loss in _known(content["figures"]["loss"]))
    return Compared("What does each depth give?", f"{a:.4g} → {b:.4g}", tuple(sentences), tuple(rows))


def _known(pair: Pair) -> tuple[float, float]:
    """Both values of a figure that every analysis has."""
    a, b = pair["a"], pair["b"]
    assert a is not None
    assert b is not None
    return a, b


def _perplexity(loss: Pair) -> Pair:
    a, b = (None if value is None else math.exp(value) for value in (loss["a"], loss["b"]))
    return {"a": a, "b": b, "difference": None if a is None or b is None else b - a}


def _row(label: str, pair: Pair, value: Format, difference: Format) -> Row:
    return Row(label, *_formatted(pair, value, difference))


def _formatted(pair: Pair, value: Format, difference: Format) -> tuple[str, str, str]:
    a, b, change = pair["a"], pair["b"], pair["difference"]
    return (
        "–" if a is None else value(a),
        "–" if b is None else value(b),
        "–" if change is None else difference(change),
    )


def _points(difference: float) -> str:
    return f"{100 * difference:+.2g} points"
