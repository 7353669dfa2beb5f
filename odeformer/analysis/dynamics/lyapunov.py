"""Lyapunov exponents of a flow: the rates at which nearby joint states of all tokens diverge or converge.

Tangents are carried along by Jacobian–vector products and re-orthonormalized after each step by a QR
decomposition, whose diagonal holds their growth (Benettin et al. 1980, Meccanica 15). The memory is m states
plus about one forward pass, for a solver with one evaluation per cell. :func:`finite_time_exponents` adds a
few tangents, and its backward sweep holds the graph of one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from odeformer.analysis.dynamics.tangents import move
from odeformer.analysis.flow import Step


class Exponents(NamedTuple):
    """Growth rates of the leading directions, largest first, for each batch element."""

    values: Tensor
    """[batch, m]: logarithm of the total growth, divided by the total duration."""
    local: Tensor
    """[steps, batch, m]: the rate of each step, for the directions that lead up to it."""


def lyapunov_exponents(steps: Sequence[Step], x: Tensor, durations: Sequence[float], count: int) -> Exponents:
    """The leading ``count`` exponents of a long trajectory, from random initial tangents.

    The influence of the initial tangents decays with one over the duration, which the few cells of a
    transformer are too short for: use :func:`finite_time_exponents` there.

    Args:
        steps: Maps of states, as many as ``durations``.
        x: The initial state, [batch, ...].
        durations: Durations of the steps, in the exponents' unit of time.

    Raises:
        ValueError: If there are more exponents than dimensions.
    """
    logarithms, _ = _forward_sweep(steps, x, _random_directions(x, count))
    return _per_duration(logarithms, durations)


def finite_time_exponents(
    steps: Sequence[Step], x: Tensor, durations: Sequence[float], count: int, iterations: int = 4
) -> Exponents:
    """The leading ``count`` finite-time exponents: ln σ_i / duration.

    The σ_i are the singular values of the derivative of the final state with respect to the initial one. The
    singular vectors are found by subspace iteration (Halko, Martinsson and Tropp 2011, arXiv 0909.4061):
    ``iterations`` forward sweeps of Jacobian–vector and backward sweeps of vector–Jacobian products. Other
    arguments and errors are those of :func:`lyapunov_exponents`.
    """
    # Four extra directions make the last exponents as accurate as the first.
    tangents = _random_directions(x, max(count, min(count + 4, x[0].numel())))
    for _ in range(iterations):
        _forward_sweep(steps, x, tangents)
        _backward_sweep(steps, x, tangents)
    logarithms, triangle = _forward_sweep(steps, x, tangents)
    values = torch.linalg.svdvals(triangle).log()[:, :count] / sum(durations)
    return Exponents(values, _per_duration(logarithms, durations).local[..., :count])


def _random_directions(x: Tensor, count: int) -> Tensor:
    """Orthonormal random directions, [m, batch, ...]."""
    dimensions = x[0].numel()
    if not 1 <= count <= dimensions:
        raise ValueError(f"{count} exponents of a state of {dimensions} numbers: from 1 to {dimensions}")
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(count, *x.shape, generator=generator, dtype=x.dtype).to(x.device)
    _orthonormalize(drawn)
    return drawn


def _orthonormalize(tangents: Tensor) -> Tensor:
    """Orthonormalize tangents [m, batch, ...] in place; return R [batch, m, m] of their QR decomposition.

    Gram–Schmidt applied twice is as accurate as Householder reflections (Giraud et al. 2005, Numerische
    Mathematik 101), and needs no memory for Q.
    """
    columns = tangents.flatten(2).transpose(0, 1)  # [batch, m, n], a view
    count = columns.shape[1]
    triangle = columns.new_zeros(len(columns), count, count)
    for i in range(count):
        before, column = columns[:, :i], columns[:, i, :, None]
        for _ in range(2):
            parts = before @ column
            column -= before.mT @ parts
            triangle[:, :i, i] += parts[..., 0]
        norm = column.norm(dim=1)
        triangle[:, i, i] = norm[:, 0]
        column /= norm.clamp(min=torch.finfo(norm.dtype).tiny)[..., None]
    return triangle


def _forward_sweep(steps: Sequence[Step], x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
    """Carry tangents to the end, where they are orthonormal again.

    Returns:
        Logarithms of growth [steps, batch, m], and the product of all R [batch, m, m], which has the
        derivative's singular values on the tangents' span.
    """
    logarithms = []
    product = torch.eye(len(tangents), dtype=x.dtype, device=x.device).expand(len(x), -1, -1)
    for step in steps:
        x = move(step, x, tangents)
        triangle = _orthonormalize(tangents)
        logarithms.append(triangle.diagonal(dim1=-2, dim2=-1).log())
        product = triangle @ product
    return torch.stack(logarithms), product


def _backward_sweep(steps: Sequence[Step], x: Tensor, cotangents: Tensor) -> None:
    """Pull directions at the end back to orthonormal directions at the beginning, in place.

    Each step's initial state is recomputed from x: that takes less time than a tangent, and stores no states.
    """
    for index in reversed(range(len(steps))):
        with torch.no_grad():
            start = x.detach()
            for step in steps[:index]:
                start = step(start)
        start.requires_grad_()
        with torch.enable_grad():
            end = steps[index](start)

        for cotangent in cotangents:
            (pulled,) = torch.autograd.grad(end, start, cotangent, retain_graph=True)
            cotangent.copy_(pulled)
        del start, end, pulled  # frees the step's graph before the next one is built
        _orthonormalize(cotangents)


def _per_duration(logarithms: Tensor, durations: Sequence[float]) -> Exponents:
    spans = torch.tensor(durations, dtype=logarithms.dtype, device=logarithms.device)
    return Exponents(logarithms.sum(0) / spans.sum(), logarithms / spans.view(-1, 1, 1))
