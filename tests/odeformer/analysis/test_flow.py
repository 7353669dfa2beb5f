"""A model's solve, cut into steps, is the model's solve."""

from __future__ import annotations

import pytest
import torch
from tiny_models import attach_adapter, ids, tiny_model

from odeformer.analysis.flow import flow_of, states
from odeformer.model import SolveOptions


@pytest.mark.parametrize(
    ("changes", "solver", "depth"),
    [
        ({}, "euler", 4),
        ({}, "rk4", 6),
        ({"flavour": "llama", "rotary_fraction": None}, "lie_trotter", 9),
        ({"flavour": "paper", "rotary_fraction": None}, "euler", 3),
        ({"prelude": 2}, "midpoint", 5),
    ],
)
def test_the_last_state_gives_the_logits_of_the_model(
    changes: dict[str, object], solver: str, depth: int
) -> None:
    model = tiny_model(**changes).eval()
    model.options = SolveOptions(solver)
    attach_adapter(model)
    flow = flow_of(model, 10, depth)
    assert len(flow.edges) == len(flow.cell_maps) + 1 == depth + 1
    assert sum(flow.widths) == pytest.approx(1)
    *_, last = states(flow.cell_maps, model.embed(ids()))
    head = model.embedding.weight
    logits = torch.nn.functional.linear(model.final_norm(last), head)
    torch.testing.assert_close(logits, model(ids(), depth=depth).logits)


def test_a_reversible_solver_is_stood_in_for_by_the_layers() -> None:
    model = tiny_model().eval()
    model.options = SolveOptions("damped_leapfrog")
    *_, last = states(flow_of(model, 10, 6).cell_maps, model.embed(ids()))
    model.options = SolveOptions("euler")
    *_, expected = states(flow_of(model, 10, 6).cell_maps, model.embed(ids()))
    assert torch.equal(last, expected)
