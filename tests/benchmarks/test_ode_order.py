"""A trained model solved ever finer: its solvers must approach one another at their orders."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gradients.ode_order import ORDERS, slopes, solver_errors
from odeformer.config import BasisConfig, ModelConfig
from odeformer.model import Odeformer, token_losses


def test_solvers_of_a_trained_model_converge_at_their_orders() -> None:
    config = ModelConfig(
        width=32,
        heads=2,
        depth=4,
        rotary_fraction=0.5,
        basis=BasisConfig(size=2),
        vocabulary_size=50,
        context_length=32,
    )
    torch.manual_seed(0)
    model = Odeformer(config)
    ids = torch.randint(50, (4, 25))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for step in range(60):
        depth = (2, 4, 8)[step % 3]
        loss = token_losses(model(ids[:, :-1], depth=depth).logits, ids[:, 1:]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
    errors = solver_errors(model, ids[:1, :-1], cells=(256, 512), reference_cells=1024)
    for name, order in ORDERS.items():
        assert slopes(errors[name])[-1] == pytest.approx(order, abs=0.2), name
        assert errors[name][512] < 0.1
