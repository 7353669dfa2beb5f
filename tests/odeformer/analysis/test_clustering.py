"""Clouds of states whose shape is known."""

from __future__ import annotations

import pytest
import torch
from tiny_models import ids, tiny_model

from odeformer.analysis import clustering as clouds
from odeformer.analysis.flow import flow_of, states


def test_the_effective_rank_of_known_clouds() -> None:
    plane = torch.zeros(4, 8)
    plane[0, 0], plane[1, 0], plane[2, 1], plane[3, 1] = 1, -1, 1, -1
    assert clouds.effective_rank(plane).item() == pytest.approx(2)
    line = torch.arange(5.0)[:, None] * torch.randn(8) + torch.randn(8)
    assert clouds.effective_rank(line).item() == pytest.approx(1, abs=1e-4)


def test_cosines_and_neighbours_of_known_clouds() -> None:
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert clouds.mean_cosine(opposite).item() == pytest.approx(-1)
    triangle = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])
    assert clouds.mean_cosine(triangle).item() == pytest.approx(-0.5, abs=1e-6)
    assert clouds.nearest_neighbour(triangle).item() == pytest.approx(1)
    twins = torch.randn(3, 4).repeat_interleave(2, dim=0)
    assert clouds.nearest_neighbour(twins).item() == pytest.approx(0, abs=1e-3)


def test_constant_weights_are_the_mean_over_t() -> None:
    """At as many cells as there are weights to average, by hand; the prelude keeps its own."""
    model = tiny_model().eval()
    own, constant = (clouds.clustering(model, ids(), 5, constant=which) for which in (False, True))
    assert own.t == constant.t
    torch.testing.assert_close(own.effective_rank[:2], constant.effective_rank[:2])
    assert (own.effective_rank[2:] - constant.effective_rank[2:]).abs().max() > 1e-3
    x = model.embed(ids()).detach()
    *_, end = states(flow_of(model, 10, 5, constant=True).steps, x)
    torch.testing.assert_close(clouds.mean_cosine(end), constant.mean_cosine[-1])
    same = tiny_model("constant", 1).eval()
    torch.testing.assert_close(flow_of(same, 10, 5, constant=True).end(x), flow_of(same, 10, 5).end(x))
