"""Whether a model behaves on a new text as on a reference: six figures of windows of both, and what moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from odeformer.analysis.answers.attribution import Question, sensitivity
from odeformer.analysis.dynamics.lyapunov import finite_time_exponents
from odeformer.analysis.dynamics.noise import relative_growth
from odeformer.analysis.flow import flow_of
from odeformer.analysis.statistics.interval import bootstrap_difference
from odeformer.analysis.statistics.permutation import PERMUTATIONS, holm, permutation_test
from odeformer.model import Odeformer, token_losses

WINDOW = 64
"""Tokens of a window, or the context's length where that is shorter."""
MOST_WINDOWS, LEAST_WINDOWS = 32, 8
ALPHA = 0.05
"""Of all figures together: a figure has moved where its adjusted p is no more."""
AT_ONCE = 8
"""Windows in one pass."""
EXPONENT_TOKENS, ITERATIONS = 32, 2
"""The exponent, which takes most of the time: of a window's first tokens, by so many subspace iterations."""
NOISE, NOISE_DRAWS = 0.01, 4
OUTPUTS = 4
"""Predictions of a window whose sensitivities are looked at, spread over its second half."""

UNITS = {
    "loss": "nats per token, mean over the window",
    "calibration_gap": "mean probability of first guesses less how many were right",
    "entropy": "nats, of predictions, mean over the window",
    "leading_exponent": "natural logarithm of growth over the whole depth, of the state of all tokens",
    "noise_growth": "what 1 % of noise on the embeddings becomes at the end, in percent of the state",
    "tokens_leaned_on": "effective number of tokens, e to the entropy of their shares of the sensitivity",
}


class Windows(NamedTuple):
    """Of a text, all of one length, spread over it."""

    ids: Tensor
    """[windows, tokens], int64."""
    starts: list[int]
    """Of each its first token's place in the text."""


def windows_of(ids: Tensor, length: int) -> Windows:
    """At most :data:`MOST_WINDOWS` of ``length`` tokens that do not overlap, from token ids [n].

    Raises:
        ValueError: for a text that has fewer than :data:`LEAST_WINDOWS`.
    """
    there = len(ids) // length
    if there < LEAST_WINDOWS:
        raise ValueError(
            f"has {len(ids):,} tokens, too few for {LEAST_WINDOWS} windows of {length}: "
            f"{LEAST_WINDOWS * length:,} are needed"
        )
    count = min(there, MOST_WINDOWS)
    starts = [index * there // count * length for index in range(count)]
    return Windows(torch.stack([ids[start : start + length] for start in starts]), starts)


def figures(
    model: Odeformer,
    windows: Tensor,
    depth: int,
    progress: Callable[[float], None] = lambda fraction: None,
) -> dict[str, Tensor]:
    """The figures of :data:`UNITS`, of each of the windows [windows, tokens]: each [windows], float64.

    Raises:
        ValueError: for a figure that is not finite.
    """
    parts: list[dict[str, Tensor]] = []
    for few in windows.split(AT_ONCE):
        progress(AT_ONCE * len(parts) / len(windows))
        parts.append(
            {
                **_predictions(model, few, depth),
                "leading_exponent": _leading_exponent(model, few, depth),
                "noise_growth": relative_growth(model, few, NOISE, NOISE_DRAWS, depth),
                "tokens_leaned_on": _tokens_leaned_on(model, few, depth),
            }
        )
    found = {name: torch.cat([part[name] for part in parts]).double().cpu() for name in UNITS}
    for name, values in found.items():
        if not values.isfinite().all():
            raise ValueError(f"{name.replace('_', ' ')} is not finite: the model's numbers overflow on it")
    return found


@torch.no_grad()
def _predictions(model: Odeformer, windows: Tensor, depth: int) -> dict[str, Tensor]:
    logits = model(windows[:, :-1], depth=depth).logits.double()
    logarithms = logits.log_softmax(-1)
    best, guess = logarithms.max(-1)
    right = (guess == windows[:, 1:]).double()
    return {
        "loss": token_losses(logits, windows[:, 1:]).mean(1),
        "calibration_gap": (best.exp() - right).mean(1),
        "entropy": -(logarithms.exp() * logarithms).sum(-1).mean(1),
    }


def _leading_exponent(model: Odeformer, windows: Tensor, depth: int) -> Tensor:
    few = windows[:, :EXPONENT_TOKENS]
    flow = flow_of(model, few.shape[1], depth)
    x = model.embed(few).detach()
    return finite_time_exponents(flow.cell_maps, x, flow.widths, 1, ITERATIONS).values[:, 0]


def _tokens_leaned_on(model: Odeformer, windows: Tensor, depth: int) -> Tensor:
    whole = windows.shape[1]
    numbers = []
    for length in sorted({whole * (OUTPUTS + 1 + k) // (2 * OUTPUTS) for k in range(OUTPUTS)}):
        few = windows[:, :length]
        with torch.no_grad():
            likeliest = model(few, depth=depth).logits[:, -1].argmax(-1)
        numbers.append(effective_number(sensitivity(Question(model, few, likeliest, depth))))
    return torch.stack(numbers).mean(0)


def effective_number(scores: Tensor) -> Tensor:
    """How many tokens share the scores [..., tokens], not negative: e to their shares' entropy, from 1 to
    their number: [...]."""
    shares = scores.double()
    shares = shares / shares.sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1).exp()


def moved(reference: dict[str, Tensor], new: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Of each figure both means, their difference with its interval, the test, and whether it has moved.

    Args:
        reference, new: what :func:`figures` gave of both texts.
    """
    tests = {name: permutation_test(reference[name], new[name]) for name in reference}
    adjusted = holm({name: test.p for name, test in tests.items()})
    return {
        name: {
            "unit": UNITS[name],
            "reference": float(reference[name].mean()),
            "new": float(new[name].mean()),
            "difference": bootstrap_difference(reference[name], new[name])._asdict(),
            "statistic": test.statistic,
            "p": test.p,
            "p_adjusted": adjusted[name],
            "moved": adjusted[name] <= ALPHA,
        }
        for name, test in tests.items()
    }


def settings(depth: int, length: int) -> dict[str, Any]:
    """How the figures and tests are made, for people and programs."""
    return {
        "depth": depth,
        "window": length,
        "most_windows": MOST_WINDOWS,
        "windows": "of one length, not overlapping, spread evenly over the text; each read by itself",
        "exponent_tokens": min(EXPONENT_TOKENS, length),
        "exponent_iterations": ITERATIONS,
        "noise": NOISE,
        "noise_draws": NOISE_DRAWS,
        "outputs": OUTPUTS,
        "difference": "new − reference",
        "interval": "95 %, bootstrap over windows of each text, as if they were independent",
        "test": "studentised permutation test (Welch's statistic), two-sided",
        "permutations": PERMUTATIONS,
        "adjustment": "Holm, over all figures",
        "alpha": ALPHA,
        "independence": "windows of one text are not: true intervals are wider, true p-values larger",
    }
