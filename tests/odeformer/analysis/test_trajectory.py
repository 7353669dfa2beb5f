"""Clouds of states whose shape or movement is known."""

from __future__ import annotations

import pytest
import torch
from tiny_models import ids, tiny_model

from odeformer.analysis.depth import loss_along, losses_by_depth
from odeformer.analysis.dynamics import trajectory as clouds
from odeformer.analysis.flow import flow_of, states


def test_the_effective_rank_of_known_clouds() -> None:
    plane = torch.zeros(4, 8)
    plane[0, 0], plane[1, 0], plane[2, 1], plane[3, 1] = 1, -1, 1, -1
    assert clouds.effective_rank(plane).item() == pytest.approx(2)
    line = torch.arange(5.0)[:, None] * torch.randn(8) + torch.randn(8)
    assert clouds.effective_rank(line).item() == pytest.approx(1, abs=1e-4)


def test_cosines_and_neighbors_of_known_clouds() -> None:
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert clouds.mean_cosine(opposite).item() == pytest.approx(-1)
    triangle = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])
    assert clouds.mean_cosine(triangle).item() == pytest.approx(-0.5, abs=1e-6)
    assert clouds.nearest_neighbor(triangle).item() == pytest.approx(1)
    twins = torch.randn(3, 4).repeat_interleave(2, dim=0)
    assert clouds.nearest_neighbor(twins).item() == pytest.approx(0, abs=1e-3)


def test_constant_weights_are_the_mean_over_t() -> None:
    """At as many cells as there are weights to average, by hand; the prelude keeps its own."""
    model = tiny_model().eval()
    own, constant = (clouds.clustering(model, ids(), 5, along) for along in ("own", "constant"))
    assert own.t == constant.t
    torch.testing.assert_close(own.effective_rank[:2], constant.effective_rank[:2])
    assert (own.effective_rank[2:] - constant.effective_rank[2:]).abs().max() > 1e-3
    x = model.embed(ids()).detach()
    *_, end = states(flow_of(model, 10, 5, "constant").cell_maps, x)
    torch.testing.assert_close(clouds.mean_cosine(end), constant.mean_cosine[-1])
    same = tiny_model("constant", 1).eval()
    torch.testing.assert_close(flow_of(same, 10, 5, "constant").end(x), flow_of(same, 10, 5).end(x))


def test_shuffled_cells_are_the_same_ones_in_another_order() -> None:
    model = tiny_model().eval()
    x = model.embed(ids()).detach()
    own, shuffled = (flow_of(model, 10, 6, along) for along in ("own", "shuffled"))
    assert own.edges == shuffled.edges
    first = len(own.cell_maps) - 5  # the prelude's keep their place
    order = torch.randperm(5, generator=torch.Generator().manual_seed(0)).tolist()
    assert order != sorted(order)
    for place, source in enumerate(order):
        torch.testing.assert_close(shuffled.cell_maps[first + place](x), own.cell_maps[first + source](x))
    torch.testing.assert_close(shuffled.cell_maps[0](x), own.cell_maps[0](x))
    other = flow_of(model, 10, 6, "shuffled", seed=1)
    assert (other.end(x) - shuffled.end(x)).abs().max() > 1e-4
    same = tiny_model("constant", 1).eval()
    torch.testing.assert_close(flow_of(same, 10, 6, "shuffled").end(x), flow_of(same, 10, 6).end(x))


def test_losses_of_the_controls() -> None:
    model, text = tiny_model().eval(), ids()
    own = losses_by_depth(model, text, [5])[0].mean(1)
    torch.testing.assert_close(loss_along(model, text, 5, "own"), own)
    for along in ("constant", "shuffled"):
        assert (loss_along(model, text, 5, along) - own).abs().max() > 1e-5
    same = tiny_model("constant", 1).eval()
    own = losses_by_depth(same, text, [5])[0].mean(1)
    for along in ("constant", "shuffled"):
        torch.testing.assert_close(loss_along(same, text, 5, along), own)


def test_a_constant_field_moves_evenly_and_straight() -> None:
    """With a bias alone in what the block writes, every state moves by D times it for each unit of t."""
    model = tiny_model().eval()
    with torch.no_grad():
        for name, parameter in model.hypernetwork.named_parameters():
            if ".basis." not in f".{name}" and not name.startswith("basis."):
                parameter.zero_()
        model.hypernetwork.down_bias.copy_(torch.randn(16).expand(3, 16))
    model.hypernetwork.basis.forward = lambda t, h: torch.full(  # type: ignore[method-assign]
        (len(model.hypernetwork.tensors), len(t), 3), 1 / 3
    )
    found = clouds.movement(model, ids(), depth=6)
    expected = 4 * model.hypernetwork.down_bias[0].norm()
    torch.testing.assert_close(found.speed, expected.expand(6, 2), rtol=1e-4, atol=0)
    assert found.turning.max() < 2e-3
    shape = clouds.clustering(model, ids(), depth=6).effective_rank
    torch.testing.assert_close(shape, shape[:1].expand(7, 2), rtol=1e-3, atol=0)
    assert found.t[0] == 0
    assert found.t[-1] == 1
