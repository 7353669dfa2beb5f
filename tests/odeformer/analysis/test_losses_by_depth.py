"""What depth does, against the model itself and against the order of its solver."""

from __future__ import annotations

import torch
from tiny_models import ids, tiny_model

from odeformer.analysis.depth import default_depths, distance_from_limit, losses_by_depth
from odeformer.model import token_losses


def test_losses_at_each_depth_are_those_of_the_model() -> None:
    model = tiny_model().eval()
    found = losses_by_depth(model, ids(), [2, 8])
    assert found.shape == (2, 2, 9)
    expected = token_losses(model(ids()[:, :-1], depth=8).logits, ids()[:, 1:])
    torch.testing.assert_close(found[1], expected)


def test_the_distance_of_euler_from_the_limit_halves() -> None:
    model = tiny_model().double().eval()
    found = distance_from_limit(model, ids(), [32, 64, 128], 1024)
    ratios = found[:-1] / found[1:]
    assert ((ratios > 1.8) & (ratios < 2.4)).all()


def test_depths_that_are_looked_at_are_those_that_a_model_has() -> None:
    assert default_depths(tiny_model()) == [2, 4, 8]
    assert default_depths(tiny_model(depth=8)) == [2, 4, 8, 16]
