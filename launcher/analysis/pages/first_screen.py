"""The first screen: three figures for somebody who must decide, in plain words."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from launcher.tables.tokens import percent, shown

TYPOS = 0.1
"""The share of letters, of those that an analysis tries, that is told of."""
POORLY_CALIBRATED = 0.1
"""An expected calibration error from here on is worth a warning."""


class Card(NamedTuple):
    """One question and what was found."""

    question: str
    figure: str
    sentences: tuple[str, ...]


def cards(content: dict[str, Any]) -> list[Card]:
    """How sure, how sensitive, and what each depth costs, of an ``analysis.json``."""
    return [_how_sure(content), _how_sensitive(content), _what_it_costs(content)]


def _how_sure(content: dict[str, Any]) -> Card:
    answer = content["answer"]
    probability, token = answer["probabilities"][0], shown(answer["tokens"][0])
    sentences = [f"The model would go on with “{token}” and gives that {percent(probability)}."]
    judged = first_guesses(content)
    if judged is None:
        sentences.append("The text is too short to say how far such numbers can be trusted.")
    else:
        right, sure, error = judged
        sentences.append(
            f"Over this text its first guess was right {percent(right)} of the time; "
            f"on average it had claimed {percent(sure)}."
        )
        if error < POORLY_CALIBRATED:
            sentences.append(f"So its percentages can be taken at face value here (off by {percent(error)}).")
        else:
            way = "too sure of itself" if sure > right else "surer than it says, or unevenly so"
            sentences.append(f"Its percentages are off by {percent(error)}: it is {way} here.")
    return Card("How sure is it?", percent(probability), tuple(sentences))


class FirstGuesses(NamedTuple):
    """Of a model's likeliest tokens over a text, at the depth of its analysis."""

    right: float
    """How many came."""
    claimed: float
    """The mean probability that they were given."""
    error: float
    """The expected calibration error."""


def first_guesses(content: dict[str, Any]) -> FirstGuesses | None:
    """None of a text that is too short for it."""
    judged = content["calibration"]["depths"].get(str(content["settings"]["depth"]))
    if judged is None:
        return None
    count = sum(judged["counts"])
    sure, right = (
        sum(of * n for of, n in zip(judged[name], judged["counts"], strict=True)) / count
        for name in ("confidence", "accuracy")
    )
    return FirstGuesses(right, sure, judged["expected_error"])


def _how_sensitive(content: dict[str, Any]) -> Card:
    small, large = content["lyapunov"]["noise"]
    becomes = small["relative"] * small["size"]
    changed = [1 - row["same_answer"] for row in (small, large)]
    agree = abs(small["measured"] / small["predicted"] - 1)
    sentences = [
        f"{percent(small['size'])} of noise on the input becomes {percent(becomes)} at the end: it is "
        f"{'amplified' if small['relative'] > 1 else 'damped'}.",
        f"It changes {percent(changed[0])} of the predictions; {percent(large['size'])} of noise "
        f"changes {percent(changed[1])}.",
        f"The derivatives had predicted this to within {percent(max(agree, 1e-4))}.",
    ]
    disturbed, depth = content["robustness"], content["settings"]["depth"]
    for row in disturbed["rows"]:
        if row["kind"] == "typos" and row["strength"] == TYPOS:
            at = disturbed["settings"]["depths"].index(depth)
            rise = row["rise"][at]["mean"] / disturbed["clean"][at]
            sentences.append(
                f"With {percent(TYPOS)} of the letters mistyped, each character of the text is "
                f"{percent(abs(rise))} {'harder' if rise > 0 else 'easier'} to predict."
            )
    return Card("How sensitive is it?", f"{small['relative']:.2g} ×", tuple(sentences))


def _what_it_costs(content: dict[str, Any]) -> Card:
    by_depth, model_depth = content["depth"], content["settings"]["model_depth"]
    losses, flops = by_depth["loss"], by_depth["flops"]
    depths = by_depth["depths"]
    own = depths.index(model_depth) if model_depth in depths else len(depths) - 1
    # The cheapest depth whose loss is within a percent of perplexity of the best.
    within = next(i for i, loss in enumerate(losses) if loss <= min(losses) + math.log(1.01))
    sentences = [
        f"N = {depths[within]} is the cheapest depth that predicts this text as well as any (to 1 % of "
        f"perplexity): {flops[within] / flops[own]:.2f} × the work of N = {depths[own]}."
    ]
    sentences += [
        f"N = {n}: {flops[i] / flops[own]:.2f} × the work, {by_depth['milliseconds'][i]:.3g} ms here, "
        f"perplexity {math.exp(losses[i]):.4g}."
        for i, n in enumerate(depths)
    ]
    return Card("What does each depth cost?", f"N = {depths[within]}", tuple(sentences))
