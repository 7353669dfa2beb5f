"""The compiled field, and that a step never waits for the device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from odeformer.config import BasisConfig, ModelConfig
from odeformer.flavours import FLAVOURS
from odeformer.gradients import GRADIENTS
from odeformer.model import Odeformer, SolveOptions, token_losses
from odeformer.solvers import SOLVERS

TOGETHER = [
    (flavour, solver, gradient)
    for flavour in FLAVOURS
    for solver, method in SOLVERS.items()
    for gradient in GRADIENTS
    # torchdiffeq looks at its times, so the adjoint waits.
    if GRADIENTS[gradient].goes_with(method) and gradient != "adjoint"
]


class NoWaiting(TorchDispatchMode):
    """Refuses the operations for which the CPU waits until an accelerator has computed their input."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "equal"), f"{name} waits"
        return func(*args, **(kwargs or {}))


def small_model(flavour: str = "neox", **settings: object) -> Odeformer:
    torch.manual_seed(0)
    config = ModelConfig.model_validate(
        {
            "flavour": flavour,
            "width": 16,
            "heads": 2,
            "depth": 4,
            "basis": BasisConfig(kind="smooth_mlp", size=4),
            "vocabulary_size": 32,
            "context_length": 8,
            **({"dropout": 0.0} if flavour == "paper" else {}),
            **settings,
        }
    )
    return Odeformer(config)


def test_a_wait_is_noticed() -> None:
    with NoWaiting(), pytest.raises(AssertionError, match="waits"):
        float(torch.ones(2).sum())


def loss_and_gradients(model: Odeformer, depth: int) -> list[torch.Tensor]:
    ids = torch.arange(18, device=model.embedding.weight.device).view(2, 9) % 32
    loss = token_losses(model(ids[:, :-1], depth=depth).logits, ids[:, 1:]).mean()
    return [loss, *torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)]


@pytest.mark.parametrize(("flavour", "solver", "gradient"), TOGETHER)
def test_a_pass_asks_the_device_for_no_number(flavour: str, solver: str, gradient: str) -> None:
    model = small_model(flavour)
    model.options = SolveOptions(solver, gradient)
    with NoWaiting():
        loss_and_gradients(model, 6)


PASSES = (("euler", "checkpoint", 7), ("lie_trotter", "direct", 5), ("damped_leapfrog", "reversible", 6))


@pytest.mark.parametrize(
    ("flavour", "passes"),
    [("neox", PASSES[:1]), *(pytest.param(name, PASSES, marks=pytest.mark.slow) for name in FLAVOURS)],
)
def test_compiled_passes_equal_eager_ones(flavour: str, passes: tuple[tuple[str, str, int], ...]) -> None:
    model = small_model(flavour)
    for solver, gradient, depth in passes:
        model.options = SolveOptions(solver, gradient)
        eager = loss_and_gradients(model, depth)
        model.options = replace(model.options, compiled=True)
        compiled = loss_and_gradients(model, depth)
        for one, other in zip(eager, compiled, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_another_depth_compiles_nothing() -> None:
    model = small_model()
    model.options = SolveOptions("euler", "checkpoint", compiled=True)
    loss_and_gradients(model, 4)
    before = counters["stats"]["unique_graphs"]
    for depth in (3, 8, 12):
        loss_and_gradients(model, depth)
    assert counters["stats"]["unique_graphs"] == before > 0
