"""Exponents against systems whose exponents are known, and against whole Jacobians of a model."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from tiny_models import config, ids, tiny_model
from torch import Tensor

from odeformer.analysis.dynamics.lyapunov import finite_time_exponents, lyapunov_exponents
from odeformer.analysis.flow import flow_of
from odeformer.model import Odeformer


def rk4(field, t: float, h: float, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    a = field(t, x)
    b = field(t + h / 2, x + h / 2 * a)
    c = field(t + h / 2, x + h / 2 * b)
    d = field(t + h, x + h * c)
    return x + h / 6 * (a + 2 * b + 2 * c + d)


def test_a_linear_system_that_changes_with_time_has_the_mean_of_its_rates() -> None:
    """dx/dt = Q diag(a + b cos t) Qᵀ x: over T the exponents are a + b sin(T) / T."""
    rates = torch.tensor([0.7, 0.1, -0.4, -2.0], dtype=torch.float64)
    swing = torch.tensor([0.1, -0.3, 0.2, 0.5], dtype=torch.float64)
    q = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]

    def field(t: float, x: Tensor) -> Tensor:
        return x @ (q * (rates + swing * math.cos(t))) @ q.T

    h, count, duration = 0.05, 40, 2.0
    steps = [partial(rk4, field, index * h, h) for index in range(count)]
    x = torch.ones(1, 4, dtype=torch.float64)
    found = finite_time_exponents(steps, x, [h] * count, 4)
    expected = (rates + swing * math.sin(duration) / duration).sort(descending=True).values
    torch.testing.assert_close(found.values[0], expected, atol=1e-5, rtol=0)
    # From random directions it takes a longer way.
    long = lyapunov_exponents(steps * 3, x, [h] * count * 3, 4)
    assert long.values.sum().item() == pytest.approx(expected.sum().item(), abs=1e-5)


def test_a_rotation_neither_stretches_nor_shrinks() -> None:
    def field(t: float, x: Tensor) -> Tensor:
        return torch.stack([-3 * x[..., 1], 3 * x[..., 0]], dim=-1)

    steps = [partial(rk4, field, 0.0, 0.01)] * 50
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for exponents in (lyapunov_exponents, finite_time_exponents):
        assert exponents(steps, x, [0.01] * 50, 2).values.abs().max() < 1e-6


def test_the_lorenz_system_has_its_published_exponents() -> None:
    """0.9056, 0 and -14.5723 (Sprott 2003), from many short ways behind a transient; their sum is exact."""

    def field(t: float, x: Tensor) -> Tensor:
        a, b, c = x.unbind(-1)
        return torch.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], dim=-1)

    h, count = 0.015, 500
    x = torch.randn(640, 3, dtype=torch.float64) + torch.tensor([0.0, 0.0, 25.0], dtype=torch.float64)
    for _ in range(700):
        x = rk4(field, 0.0, h, x)
    warm = lyapunov_exponents([partial(rk4, field, 0.0, h)] * count, x, [h] * count, 3)
    late = warm.local[250:].mean(0)  # the directions have found themselves
    mean, error = late.mean(0), late.std(0) / len(x) ** 0.5
    expected = torch.tensor([0.9056, 0.0, -14.5723], dtype=torch.float64)
    assert late.sum(-1).mean().item() == pytest.approx(-41 / 3, abs=1e-3)
    assert ((mean - expected).abs() < 3 * error + 2e-3).all(), (mean, error)
    assert error.max() < 0.02


@pytest.mark.parametrize("flavour", ["neox", "llama"])
def test_exponents_are_the_singular_values_of_the_whole_jacobian(flavour: str) -> None:
    model = tiny_model(flavour=flavour, rotary_fraction=None).double().eval()
    flow = flow_of(model, 5, 6)
    x = model.embed(ids(batch=2, length=5)).detach()
    found = finite_time_exponents(flow.cell_maps, x, flow.widths, 4, iterations=8)
    for index in range(2):
        one = x[index : index + 1]
        jacobian = torch.autograd.functional.jacobian(flow.end, one).reshape(one.numel(), one.numel())
        expected = torch.linalg.svdvals(jacobian)[:4].log()
        torch.testing.assert_close(found.values[index], expected, atol=1e-4, rtol=0)
    assert found.local.shape == (6, 2, 4)


def test_exponents_of_finer_solves_approach_one_another() -> None:
    model = Odeformer(config()).double().eval()
    x = 10 * model.embed(ids(batch=1, length=6)).detach()  # of the size that trained embeddings have
    values = []
    for depth in (6, 11, 21):
        flow = flow_of(model, 6, depth)
        values.append(finite_time_exponents(flow.cell_maps, x, flow.widths, 3).values[0])
    first, second = (values[0] - values[1]).abs().max(), (values[1] - values[2]).abs().max()
    assert second < 0.6 * first, "Euler: half the step, half the distance"


def test_too_many_exponents_are_refused() -> None:
    with pytest.raises(ValueError, match="4 exponents of a state of 3 numbers"):
        lyapunov_exponents([], torch.zeros(1, 3), [], 4)
