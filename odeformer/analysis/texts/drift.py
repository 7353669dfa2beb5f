"""Drift of a model between a reference and a new text: six figures per window, and their tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from odeformer.analysis.answers.attribution import Question, sensitivity
from odeformer.analysis.content import DriftFigure, Settings
from odeformer.analysis.dynamics.lyapunov import finite_time_exponents
from odeformer.analysis.dynamics.noise import relative_growth
from odeformer.analysis.flow import flow_of
from odeformer.analysis.statistics import PERMUTATIONS, bootstrap_difference, holm, permutation_test
from odeformer.model import Odeformer, token_losses

WINDOW = 64
"""Tokens of a window; the context length if that is shorter."""
MOST_WINDOWS, LEAST_WINDOWS = 32, 8
ALPHA = 0.05
"""Family-wise significance level: a figure has moved if its adjusted p is at most this."""
AT_ONCE = 8
"""The batch size of forward passes."""
EXPONENT_TOKENS, ITERATIONS = 32, 2
"""The exponent, the slowest figure, takes a window's first tokens and few subspace iterations."""
NOISE, NOISE_DRAWS = 0.01, 4
OUTPUTS = 4
"""Predictions of a window with sensitivities, spread over its second half."""

UNITS = {
    "loss": "nats per token, mean over the window",
    "calibration_gap": "mean probability of first guesses less how many were right",
    "entropy": "nats, of predictions, mean over the window",
    "leading_exponent": "natural logarithm of growth over the whole depth, of the state of all tokens",
    "noise_growth": "what 1 % of noise on the embeddings becomes at the end, in percent of the state",
    "tokens_leaned_on": "effective number of tokens, e to the entropy of their shares of the sensitivity",
}


class Windows(NamedTuple):
    """Windows of equal length, spread over a text."""

    ids: Tensor
    """[windows, tokens], int64."""
    starts: list[int]
    """Position of each window's first token in the text."""


def windows_of(ids: Tensor, length: int) -> Windows:
    """Up to :data:`MOST_WINDOWS` non-overlapping windows of ``length`` tokens from token ids [n].

    Raises:
        ValueError: If the text has room for fewer than :data:`LEAST_WINDOWS`.
    """
    available = len(ids) // length
    if available < LEAST_WINDOWS:
        raise ValueError(
            f"has {len(ids):,} tokens, too few for {LEAST_WINDOWS} windows of {length}: "
            f"{LEAST_WINDOWS * length:,} are needed"
        )
    count = min(available, MOST_WINDOWS)
    starts = [index * available // count * length for index in range(count)]
    return Windows(torch.stack([ids[start : start + length] for start in starts]), starts)


def figures(
    model: Odeformer,
    windows: Tensor,
    depth: int,
    progress: Callable[[float], None] = lambda fraction: None,
) -> dict[str, Tensor]:
    """Each figure of :data:`UNITS` for windows [windows, tokens]: [windows] each, float64.

    Raises:
        ValueError: If a figure is not finite.
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
    values = {}
    for name in UNITS:
        values[name] = torch.cat([part[name] for part in parts]).double().cpu()
        if not values[name].isfinite().all():
            raise ValueError(f"{name.replace('_', ' ')} is not finite: the model's numbers overflow")
    return values


@torch.no_grad()
def _predictions(model: Odeformer, windows: Tensor, depth: int) -> dict[str, Tensor]:
    logits = model(windows[:, :-1], depth=depth).logits.double()
    log_probabilities = logits.log_softmax(-1)
    best, guess = log_probabilities.max(-1)
    right = (guess == windows[:, 1:]).double()
    return {
        "loss": token_losses(logits, windows[:, 1:]).mean(1),
        "calibration_gap": (best.exp() - right).mean(1),
        "entropy": -(log_probabilities.exp() * log_probabilities).sum(-1).mean(1),
    }


def _leading_exponent(model: Odeformer, windows: Tensor, depth: int) -> Tensor:
    few = windows[:, :EXPONENT_TOKENS]
    flow = flow_of(model, few.shape[1], depth)
    x = model.embed(few).detach()
    return finite_time_exponents(flow.cell_maps, x, flow.widths, 1, ITERATIONS).values[:, 0]


def _tokens_leaned_on(model: Odeformer, windows: Tensor, depth: int) -> Tensor:
    length = windows.shape[1]
    ends = {length * (OUTPUTS + 1 + k) // (2 * OUTPUTS) for k in range(OUTPUTS)}
    numbers = []
    for end in sorted(ends):
        prefix = windows[:, :end]
        with torch.no_grad():
            most_likely = model(prefix, depth=depth).logits[:, -1].argmax(-1)
        numbers.append(effective_number(sensitivity(Question(model, prefix, most_likely, depth))))
    return torch.stack(numbers).mean(0)


def effective_number(scores: Tensor) -> Tensor:
    """Effective number of tokens: exponential of the entropy of normalized scores, [..., tokens] → [...]."""
    shares = scores.double()
    shares = shares / shares.sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1).exp()


def moved(reference: dict[str, Tensor], new: dict[str, Tensor]) -> dict[str, DriftFigure]:
    """Both means of each figure, their difference with its interval, and the test of whether it has moved.

    Args:
        reference, new: The :func:`figures` of both texts.
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


def settings(depth: int, length: int) -> Settings:
    """The settings of figures and tests, as ``drift.json`` holds them."""
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
        "test": "studentized permutation test (Welch's statistic), two-sided",
        "permutations": PERMUTATIONS,
        "adjustment": "Holm, over all figures",
        "alpha": ALPHA,
        "independence": "windows of one text are not: true intervals are wider, true p-values larger",
    }
