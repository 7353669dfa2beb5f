"""How states move along t, where that is known."""

from __future__ import annotations

import torch
from tiny_models import ids, tiny_model

from odeformer.analysis.dynamics.clustering import clustering
from odeformer.analysis.dynamics.movement import movement


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
    found = movement(model, ids(), depth=6)
    expected = 4 * model.hypernetwork.down_bias[0].norm()
    torch.testing.assert_close(found.speed, expected.expand(6, 2), rtol=1e-4, atol=0)
    assert found.turning.max() < 2e-3
    shape = clustering(model, ids(), depth=6).effective_rank
    torch.testing.assert_close(shape, shape[:1].expand(7, 2), rtol=1e-3, atol=0)
    assert found.t[0] == 0
    assert found.t[-1] == 1
