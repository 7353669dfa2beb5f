"""Spectra through small matrices against those of the whole ones, and against attention's own scores."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tiny_models import attach_adapter, ids, tiny_model
from torch import Tensor

from odeformer.analysis.dynamics import spectrum
from odeformer.field import build_field

TIMES = torch.tensor([0.1, 0.6, 0.9], dtype=torch.float64)


@pytest.mark.parametrize("flavour", ["neox", "llama", "paper"])
@pytest.mark.parametrize("offset", [0, -3, 2])
def test_scores_of_states_follow_from_the_matrices(flavour: str, offset: int) -> None:
    """x_iᵀ M x_j, over both norms, is the score that attention computes, where biases are zero."""
    model = tiny_model(flavour=flavour, rotary_fraction=None).double().eval()
    attach_adapter(model).double()
    weights = spectrum.weights_at(model, TIMES)
    for name in ("qkv_bias", "attention_norm_bias"):
        if name in weights:
            weights[name] = torch.zeros_like(weights[name])
    x = torch.randn(1, 6, 16, dtype=torch.float64)
    field = build_field(model.config, x, training=False)
    block = {name: stacked[1] for name, stacked in weights.items()}
    query, key, _ = field.heads(x, block)
    first = 4 if offset < 0 else 1
    scores = (query[0, :, first] * key[0, :, first + offset]).sum(-1) / math.sqrt(model.config.head_width)
    heads = spectrum.head_matrices(model.config, weights)
    rotated = heads.key[1]
    if flavour != "paper" and offset:
        rotated = spectrum.rotation(model.config, offset, rotated) @ rotated
    whole = heads.query[1].mT @ rotated / math.sqrt(model.config.head_width)
    norms = norm_of(x[0], flavour, model.config.epsilon)
    expected = (x[0, first] @ whole @ x[0, first + offset]) / (norms[first] * norms[first + offset])
    torch.testing.assert_close(scores, expected)


def norm_of(x: Tensor, flavour: str, epsilon: float) -> Tensor:
    """What the norm divides by."""
    if flavour == "llama":
        return (x.square().mean(-1) + epsilon).sqrt()
    return (x.var(-1, unbiased=False) + epsilon).sqrt()


@pytest.mark.parametrize("flavour", ["neox", "llama"])
def test_small_matrices_have_the_spectrum_of_the_whole_one(flavour: str) -> None:
    model = tiny_model(flavour=flavour, rotary_fraction=None).double().eval()
    config, weights = model.config, spectrum.weights_at(model, TIMES)
    heads = spectrum.head_matrices(config, weights)
    for found, whole in (
        (spectrum.output_value_spectrum(config, weights), heads.out @ heads.value),
        (
            spectrum.query_key_spectrum(config, weights),
            heads.query.mT @ heads.key / math.sqrt(config.head_width),
        ),
    ):
        assert whole.shape == (3, 2, 16, 16)
        expected = torch.linalg.eigvals(whole)
        order = expected.abs().argsort(dim=-1, descending=True)[..., : config.head_width]
        expected = expected.gather(-1, order)
        assert found.eigenvalues.is_complex()
        # Pairs of conjugates have no order among themselves: compare the polynomials they are roots of.
        power_sums = [(found.eigenvalues**n).sum(-1) - (expected**n).sum(-1) for n in (1, 2, 3)]
        assert max(difference.abs().max() for difference in power_sums) < 1e-5
        torch.testing.assert_close(found.eigenvalues.abs(), expected.abs(), rtol=1e-5, atol=1e-9)
        singular = torch.linalg.svdvals(whole)[..., : config.head_width]
        torch.testing.assert_close(found.singular_values, singular, rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(found.norm, whole.flatten(-2).norm(dim=-1))


def test_rotation_by_a_known_angle_has_complex_eigenvalues() -> None:
    angle = torch.tensor(0.3)
    turn = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    found = spectrum.product_spectrum(torch.eye(2), turn)
    torch.testing.assert_close(found.eigenvalues.imag.abs(), angle.sin().expand(2))
    torch.testing.assert_close(found.singular_values, torch.ones(2))


def test_the_feed_forward_jacobian_is_that_of_finite_differences() -> None:
    model = tiny_model().double().eval()
    block = {name: stacked[0] for name, stacked in spectrum.weights_at(model, TIMES).items()}
    x = model.embed(ids(batch=1, length=3)).detach()[0]
    field = build_field(model.config, x.new_empty(1, 1, 16), training=False)
    found, small = spectrum.feed_forward_eigenvalues(model.config, block, x), 1e-6
    for token in range(3):
        columns = [
            (
                field.feed_forward((x[token] + small * e).view(1, 1, -1), block)
                - field.feed_forward((x[token] - small * e).view(1, 1, -1), block)
            ).flatten()
            / (2 * small)
            for e in torch.eye(16, dtype=torch.float64)
        ]
        expected = torch.linalg.eigvals(torch.stack(columns, dim=1)).abs().sort(descending=True).values
        torch.testing.assert_close(found[token].abs(), expected, rtol=1e-4, atol=1e-6)


def test_roughness_is_one_on_average_over_all_orders() -> None:
    values = torch.tensor([0.3, 2.0, -1.0, 0.7, 0.0], dtype=torch.float64)
    orders = torch.stack([values[list(order)] for order in itertools.permutations(range(5))], dim=1)
    assert spectrum.roughness(orders).mean().item() == pytest.approx(1)
    assert spectrum.roughness(orders).max() > 1.2
    # A straight line of n values: n − 1 steps of one, beside (n − 1)(n + 1) / 3 in random order.
    line = torch.arange(17.0, dtype=torch.float64)[:, None].expand(-1, 2)
    torch.testing.assert_close(spectrum.roughness(line), torch.full((2,), 3 / 18, dtype=torch.float64))
    assert spectrum.roughness(torch.ones(4, 1)).item() == 1
