"""Calibration and intervals where the truth is known, noise against the whole Jacobian."""

from __future__ import annotations

import pytest
import torch
from tiny_models import ids, tiny_model

from odeformer.analysis.dynamics.noise import amplification
from odeformer.analysis.flow import flow_of
from odeformer.analysis.statistics import bootstrap, reliability


def test_a_model_that_says_what_it_knows_is_calibrated() -> None:
    """Targets drawn from the predictions themselves; then from a model that is too sure of itself."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 5, generator=generator)
    targets = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    honest = reliability(logits, targets)
    assert honest.counts.sum() == 20_000
    assert honest.expected_error < 0.02
    assert reliability(3 * logits, targets).expected_error > 0.1


def test_bins_by_hand() -> None:
    # Probabilities 0.25 (a wrong and a right one) and 0.95 (right).
    even, sure = torch.zeros(4), torch.tensor([0.95, 0.03, 0.01, 0.01]).log()
    found = reliability(torch.stack([even, even, sure])[None], torch.tensor([[3, 0, 0]]))
    assert found.counts.tolist() == [0, 0, 2, 0, 0, 0, 0, 0, 0, 1]
    assert found.accuracy[2] == 0.5
    assert found.confidence[9].item() == pytest.approx(0.95)
    assert found.expected_error == pytest.approx((2 * 0.25 + 0.05) / 3)
    with pytest.raises(ValueError, match="at least 2 tokens"):
        reliability(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))


def test_the_interval_of_a_mean_has_the_width_of_its_standard_error() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)) + 3
    found = bootstrap(values)
    assert found == bootstrap(values), "the same from one call to the next"
    half = 1.96 * values.std() / 20
    assert found.mean == pytest.approx(float(values.mean()), rel=1e-6)
    assert found.high - found.mean == pytest.approx(float(half), rel=0.15)
    with pytest.raises(ValueError, match="at least 2 values"):
        bootstrap(values[:1])


def test_small_noise_is_amplified_as_the_whole_jacobian_says() -> None:
    """Over all directions the mean square is ‖J‖² / n; eight draws of it come near."""
    model = tiny_model().double().eval()
    text = ids(batch=1, length=6)
    found, large = amplification(model, text, [1e-4, 3.0], depth=5)
    assert found.measured == pytest.approx(found.predicted, rel=1e-3)
    x = model.embed(text).detach()
    jacobian = torch.autograd.functional.jacobian(flow_of(model, 6, 5).end, x).view(x.numel(), -1)
    expected = float(jacobian.square().sum().div(x.numel()).sqrt())
    assert found.predicted == pytest.approx(expected, rel=0.15)
    assert found.same_answer == 1
    assert large.same_answer < 1
