"""Lyapunov exponents of a flow: how fast nearby joint states of all tokens part, or meet.

The state is that of all tokens together, so what one token does to another is in it. Benettin et al. 1980
(Meccanica 15): tangents are carried along by Jacobian–vector products and made orthonormal again after
every step by a QR decomposition, whose diagonal says how much each has grown. Memory: m states, and about
what a forward pass takes, with a solver of one evaluation. :func:`finite_time_exponents` carries a few
tangents more, and its way back holds the graph of one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from odeformer.analysis.dynamics.tangents import move
from odeformer.analysis.flow import Step


class Exponents(NamedTuple):
    """Growth rates of the leading directions, largest first, for each element of the batch."""

    values: Tensor
    """[batch, m]: logarithm of growth over the whole way, by its duration."""
    local: Tensor
    """[steps, batch, m]: the same for each step, of the directions that lead over the way up to there."""


def lyapunov_exponents(
    steps: Sequence[Step], x: Tensor, durations: Sequence[float], count: int, seed: int = 0
) -> Exponents:
    """The leading ``count`` exponents of a long way, from tangents in random directions.

    Over a long way what remains of the directions' first choice fades as one over its duration. Over the few
    cells of a transformer it does not: see :func:`finite_time_exponents`.

    Args:
        steps: maps of states, as many as ``durations``.
        x: where it begins, [batch, ...].
        durations: of the steps, in the unit of time that the exponents are wanted in.

    Raises:
        ValueError: for more directions than a state has.
    """
    tangents = _random_directions(x, count, seed)
    logarithms = _sweep(steps, x, tangents)
    return _per_duration(logarithms, durations)


def finite_time_exponents(
    steps: Sequence[Step],
    x: Tensor,
    durations: Sequence[float],
    count: int,
    iterations: int = 4,
    seed: int = 0,
) -> Exponents:
    """The leading ``count`` exponents over exactly this way: ln σ_i / duration, σ_i the singular values of
    the derivative of its end with respect to its beginning.

    The directions that grow most are found by subspace iteration (Halko, Martinsson and Tropp 2011, arXiv
    0909.4061): ``iterations`` times forth, by Jacobian–vector products, and back, by vector–Jacobian ones.

    Args, Raises: those of :func:`lyapunov_exponents`.
    """
    tangents = _random_directions(x, count + _spare(x, count), seed)
    for _ in range(iterations):
        _sweep(steps, x, tangents)
        _back(steps, x, tangents)
    logarithms, triangles = _carry(steps, x, tangents)
    durations_sum = sum(durations)
    values = torch.linalg.svdvals(triangles).log()[:, :count] / durations_sum
    local = _per_duration(logarithms, durations).local[..., :count]
    return Exponents(values, local)


def _spare(x: Tensor, count: int) -> int:
    """A few directions more than asked for make the last ones as exact as the first."""
    return min(count + 4, x[0].numel()) - count


def _random_directions(x: Tensor, count: int, seed: int) -> Tensor:
    """Orthonormal ones, [m, batch, ...]."""
    dimensions = x[0].numel()
    if not 1 <= count <= dimensions:
        raise ValueError(f"{count} exponents of a state of {dimensions} numbers: from 1 to {dimensions}")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, *x.shape, generator=generator, dtype=x.dtype).to(x.device)
    _orthonormalise(drawn)
    return drawn


def _orthonormalise(tangents: Tensor) -> Tensor:
    """Make tangents [m, batch, ...] orthonormal in place; R [batch, m, m] of their QR decomposition.

    By the Gram–Schmidt process, everything twice, which is as exact as Householder's reflections (Giraud et
    al. 2005, Numerische Mathematik 101) and needs no room for Q beside them.
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


def _sweep(steps: Sequence[Step], x: Tensor, tangents: Tensor) -> Tensor:
    """Logarithms of growth [steps, batch, m]; the tangents become their orthonormal images at the end."""
    logarithms = []
    for step in steps:
        x = move(step, x, tangents)
        logarithms.append(_orthonormalise(tangents).diagonal(dim1=-2, dim2=-1).log())
    return torch.stack(logarithms)


def _carry(steps: Sequence[Step], x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
    """The same logarithms; and the product of the triangles, [batch, m, m], which has the derivative's
    singular values in the tangents' span."""
    logarithms = []
    product = torch.eye(len(tangents), dtype=x.dtype, device=x.device).expand(len(x), -1, -1)
    for step in steps:
        x = move(step, x, tangents)
        triangle = _orthonormalise(tangents)
        logarithms.append(triangle.diagonal(dim1=-2, dim2=-1).log())
        product = triangle @ product
    return torch.stack(logarithms), product


def _back(steps: Sequence[Step], x: Tensor, cotangents: Tensor) -> None:
    """Directions at the end become orthonormal ones at the beginning, step by step.

    Each step's beginning is found anew from x: that costs less time than a tangent, and keeps no states.
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
        del start, end, pulled  # and with them the step's graph, before the next one is made
        _orthonormalise(cotangents)


def _per_duration(logarithms: Tensor, durations: Sequence[float]) -> Exponents:
    spans = torch.tensor(durations, dtype=logarithms.dtype, device=logarithms.device)
    return Exponents(logarithms.sum(0) / spans.sum(), logarithms / spans.view(-1, 1, 1))
