"""The first screen of an analysis: three figures in plain words."""

from __future__ import annotations

import math
from typing import NamedTuple

from launcher.tables.tokens import percent, shown
from odeformer.analysis.content import Analysis

TYPOS = 0.1
"""The share of mistyped letters that the first screen mentions."""
POORLY_CALIBRATED = 0.1
"""Expected calibration error from which the first screen warns."""


class Card(NamedTuple):
    """A question of the first screen and its answer."""

    question: str
    figure: str
    sentences: tuple[str, ...]


class FirstGuesses(NamedTuple):
    """Accuracy and confidence of the most likely tokens over a text, at the depth of its analysis."""

    right: float
    """The fraction of most likely tokens that were right."""
    claimed: float
    """The mean probability of the most likely tokens."""
    error: float
    """The expected calibration error."""


def cards(content: Analysis) -> list[Card]:
    """The questions of the first screen: confidence, sensitivity and cost."""
    return [_how_sure(content), _how_sensitive(content), _what_it_costs(content)]


def first_guesses(content: Analysis) -> FirstGuesses | None:
    """Accuracy and confidence; None if the text is too short."""
    judged = content["calibration"]["depths"].get(str(content["settings"]["depth"]))
    if judged is None:
        return None
    counts = judged["counts"]

    def mean(values: list[float]) -> float:
        return sum(value * count for value, count in zip(values, counts, strict=True)) / sum(counts)

    return FirstGuesses(mean(judged["accuracy"]), mean(judged["confidence"]), judged["expected_error"])


def _how_sure(content: Analysis) -> Card:
    probability = percent(content["answer"]["probabilities"][0])
    token = shown(content["answer"]["tokens"][0])
    sentences = [f"The most likely next token is “{token}”, with a probability of {probability}."]
    guesses = first_guesses(content)
    if guesses is None:
        sentences.append("The text is too short to say how far such percentages can be trusted.")
    else:
        error = percent(guesses.error)
        sentences.append(
            f"On this text its most likely token was right {percent(guesses.right)} of the time, with a mean "
            f"probability of {percent(guesses.claimed)}."
        )
        if guesses.error < POORLY_CALIBRATED:
            sentences.append(f"So its percentages can be trusted here (calibration error {error}).")
        else:
            tendency = "overconfident" if guesses.claimed > guesses.right else "underconfident or uneven"
            sentences.append(f"Its percentages are off by {error}: it is {tendency} here.")
    return Card("How sure is it?", probability, tuple(sentences))


def _how_sensitive(content: Analysis) -> Card:
    small, large = content["lyapunov"]["noise"]
    becomes = small["relative"] * small["size"]
    deviation = abs(small["measured"] / small["predicted"] - 1)
    sentences = [
        f"{percent(small['size'])} of noise on the input becomes {percent(becomes)} at the end: it is "
        f"{'amplified' if small['relative'] > 1 else 'damped'}.",
        f"It changes {percent(1 - small['same_answer'])} of the predictions; {percent(large['size'])} of "
        f"noise changes {percent(1 - large['same_answer'])}.",
        f"The derivatives had predicted this to within {percent(max(deviation, 1e-4))}.",
    ]
    robustness = content["robustness"]
    for row in robustness["rows"]:
        if row["kind"] == "typos" and row["strength"] == TYPOS and robustness["clean"] is not None:
            index = robustness["settings"]["depths"].index(content["settings"]["depth"])
            rise = row["rise"][index]["mean"] / robustness["clean"][index]
            sentences.append(
                f"With {percent(TYPOS)} of the letters mistyped, each character of the text is "
                f"{percent(abs(rise))} {'harder' if rise > 0 else 'easier'} to predict."
            )
    return Card("How sensitive is it?", f"{small['relative']:.2g} ×", tuple(sentences))


def _what_it_costs(content: Analysis) -> Card:
    by_depth, model_depth = content["depth"], content["settings"]["model_depth"]
    depths, losses, flops = by_depth["depths"], by_depth["loss"], by_depth["flops"]
    own = depths.index(model_depth) if model_depth in depths else len(depths) - 1
    # The cheapest depth whose perplexity is within 1 % of the best.
    cheapest = next(i for i, loss in enumerate(losses) if loss <= min(losses) + math.log(1.01))
    sentences = [
        f"N = {depths[cheapest]} is the cheapest depth that predicts this text as well as any (to 1 % of "
        f"perplexity): {flops[cheapest] / flops[own]:.2f} × the work of N = {depths[own]}."
    ]
    for i, n in enumerate(depths):
        sentences.append(
            f"N = {n}: {flops[i] / flops[own]:.2f} × the work, {by_depth['milliseconds'][i]:.3g} ms here, "
            f"perplexity {math.exp(losses[i]):.4g}."
        )
    return Card("What does each depth cost?", f"N = {depths[cheapest]}", tuple(sentences))
