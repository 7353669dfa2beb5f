"""The first screen of a comparison: the questions of an analysis, with what changed in plain words."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from launcher.analysis.pages.comparison_disturbances import verdict
from launcher.tables.tokens import percent, shown

Format = Callable[[float], str]
AS_MUCH = 0.05
"""Amplifications that differ by less of themselves are called the same."""


class Row(NamedTuple):
    """One figure of both: as they are read."""

    label: str
    a: str
    b: str
    difference: str


class Compared(NamedTuple):
    """One question and what both models have for it."""

    question: str
    figure: str
    sentences: tuple[str, ...]
    rows: tuple[Row, ...]


def cards(a: dict[str, Any], b: dict[str, Any], content: dict[str, Any]) -> list[Compared]:
    """How sure, how sensitive, and what each depth costs: of two analyses and their ``comparison.json``."""
    return [_how_sure(a, b, content), _how_sensitive(content), _what_it_costs(content)]


def cost_rows(content: dict[str, Any]) -> list[tuple[int, list[str]]]:
    """N, and at it A, B and the difference of the loss; A, B and B / A of work and time."""

    def work(flops: float) -> str:
        return f"{flops / 1e6:.4g} M"

    return [
        (
            row["depth"],
            [
                *_three(row["loss"], "{:.3f}".format, "{:+.3f}".format),
                *_beside(row["flops"], work),
                *_beside(row["milliseconds"], "{:.3g}".format),
            ],
        )
        for row in content["depths"]
    ]


def _how_sure(a: dict[str, Any], b: dict[str, Any], content: dict[str, Any]) -> Compared:
    of = content["figures"]
    guesses = [shown(one["answer"]["tokens"][0]) for one in (a, b)]
    sure = [percent(of["probability_of_answer"][who]) for who in "ab"]
    if a["answer"]["ids"][0] == b["answer"]["ids"][0]:
        sentences = [f"Both would go on with “{guesses[0]}”: A gives that {sure[0]}, B {sure[1]}."]
    else:
        sentences = [
            f"They disagree: A would go on with “{guesses[0]}” ({sure[0]}), "
            f"B with “{guesses[1]}” ({sure[1]})."
        ]
    error = of["calibration_error"]
    if error["difference"] is None:
        sentences.append("The text is too short to say how far such numbers can be trusted.")
    else:
        sentences.append(
            f"Percentages of {'B' if error['difference'] < 0 else 'A'} are nearer to the truth here."
            if abs(error["difference"]) >= 0.01
            else "Percentages of both can be trusted as far."
        )
    labels = {
        "probability_of_answer": "the next token",
        "right": "first guess right",
        "claimed": "claimed for it",
        "calibration_error": "percentages off by",
    }
    rows = [_row(label, of[name], percent, _points) for name, label in labels.items()]
    return Compared("How sure are they?", f"{sure[0]} → {sure[1]}", tuple(sentences), tuple(rows))


def _how_sensitive(content: dict[str, Any]) -> Compared:
    of = content["figures"]
    noise = of["noise_relative"]
    ratio = noise["b"] / noise["a"]
    if abs(ratio - 1) < AS_MUCH:
        sentence = "A little noise on the input does the same to both."
    else:
        more, times = ("B", ratio) if ratio > 1 else ("A", 1 / ratio)
        sentence = f"A little noise on the input moves {more} more: {times:.3g} × as far at the end."
    changed = of["changed_by_small_noise"]
    rows = (
        _row("noise grows", noise, "{:.3g} ×".format, "{:+.2g}".format),
        _row("1 % of it changes", changed, percent, _points),
        _row("10 % of it changes", of["changed_by_large_noise"], percent, _points),
        _row("leading exponent", of["leading_exponent"], "{:.2f}".format, "{:+.2f}".format),
    )
    second = (
        f"1 % of noise changes {percent(changed['a'])} of A's predictions, {percent(changed['b'])} of B's."
    )
    figure = f"{noise['a']:.2g} × → {noise['b']:.2g} ×"
    disturbed = () if content["disturbances"] is None else (verdict(content),)
    return Compared("How sensitive are they?", figure, (sentence, second, *disturbed), rows)


def _what_it_costs(content: dict[str, Any]) -> Compared:
    perplexities = [math.exp(content["figures"]["loss"][who]) for who in "ab"]
    found, better = content["loss_difference"], content["tokens_better"]
    if found is None or found["low"] <= 0 <= found["high"]:
        sentence = "On this text neither predicts better by more than chance."
    else:
        which, share = ("B", better) if found["mean"] < 0 else ("A", 1 - better)
        sentence = f"{which} predicts this text better, on {percent(share)} of its tokens."
    sentences = [sentence]
    if found is not None:
        sentences.append(
            f"Loss of B less A's: {found['mean']:+.3f} nats per token, "
            f"95 % interval {found['low']:+.3f} to {found['high']:+.3f}."
        )
    rows = [
        _row(f"perplexity, N = {row['depth']}", _perplexity(row["loss"]), "{:.4g}".format, "{:+.3g}".format)
        for row in content["depths"]
    ]
    figure = f"{perplexities[0]:.4g} → {perplexities[1]:.4g}"
    return Compared("What does each depth give?", figure, tuple(sentences), tuple(rows))


def _perplexity(loss: dict[str, Any]) -> dict[str, Any]:
    a, b = (None if loss[who] is None else math.exp(loss[who]) for who in "ab")
    return {"a": a, "b": b, "difference": None if a is None or b is None else b - a}


def _row(label: str, pair: dict[str, Any], value: Format, difference: Format) -> Row:
    return Row(label, *_three(pair, value, difference))


def _three(pair: dict[str, Any], value: Format, difference: Format) -> tuple[str, str, str]:
    a, b = ("–" if pair[who] is None else value(pair[who]) for who in "ab")
    return a, b, "–" if pair["difference"] is None else difference(pair["difference"])


def _points(difference: float) -> str:
    return f"{100 * difference:+.2g} points"


def _beside(pair: dict[str, Any], value: Format) -> tuple[str, str, str]:
    a, b, _ = _three(pair, value, str)
    return a, b, "–" if pair["difference"] is None else f"{pair['b'] / pair['a']:.2f} ×"
