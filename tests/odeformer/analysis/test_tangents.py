"""Tangents that move a few tokens at a time, against torch's own products of the whole step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import ids, tiny_model
from torch.func import jvp

from odeformer.analysis.dynamics.tangents import move
from odeformer.analysis.flow import differentiable_attention, flow_of
from odeformer.measure.memory import peak_bytes
from odeformer.model import SolveOptions


@pytest.mark.parametrize(
    ("solver", "changes"),
    [
        ("euler", {"flavour": "neox"}),
        ("rk4", {"flavour": "llama", "rotary_fraction": None, "heads": 4, "key_value_heads": 2}),
        ("lie_trotter", {"flavour": "paper", "rotary_fraction": None}),
    ],
)
def test_tangents_are_products_with_the_derivative(solver: str, changes: dict[str, Any]) -> None:
    model = tiny_model(**changes, context_length=40).double().eval()
    model.options = SolveOptions(solver)
    length = 37  # the last few tokens are fewer
    x = model.embed(ids(batch=2, length=length)).detach()
    assert length > 2 * model.config.head_width
    tangents = torch.randn(3, *x.shape, dtype=x.dtype)
    for step in flow_of(model, length, 5).cell_maps:
        with differentiable_attention():
            expected = torch.stack([jvp(step, (x,), (tangent,))[1] for tangent in tangents]).detach()
        moved = tangents.clone()
        after = move(step, x, moved)
        torch.testing.assert_close(after, step(x), rtol=0, atol=0)
        torch.testing.assert_close(moved, expected, rtol=1e-10, atol=1e-12)
        x, tangents = after.detach(), moved


def test_their_memory_grows_as_the_text_does() -> None:
    """Not as its square, as attention's scores do."""
    model = tiny_model(context_length=256).eval()

    def most(length: int) -> int:
        x = model.embed(ids(batch=1, length=length)).detach()
        step, tangents = flow_of(model, length, 5).cell_maps[-1], torch.randn(2, *x.shape)
        return peak_bytes(lambda: move(step, x, tangents))

    assert most(256) < 4.5 * most(64)
