from typing import Any

import pytest
import torch
from test_solvers import REVERSIBLE, LinearField, rotating_weights
from tiny_models import attach_adapter, gradients, ids, loss, tiny_model

from odeformer.depth import uniform_grid
from odeformer.field import build_field
from odeformer.gradients import integrate
from odeformer.memory import peak_bytes
from odeformer.model import token_losses
from odeformer.solvers import SOLVERS, Cell, ReversibleSolver, solver_named


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("kind", "size"), [("smooth_mlp", 3), ("none", 4)])
def test_checkpoint_gives_the_direct_gradient_bit_for_bit(kind: str, size: int, solver: str) -> None:
    model = tiny_model(kind, size)
    model.solver = solver
    attach_adapter(model, rank=2)
    for depth in (4, 3, 7):
        direct = gradients(model, "direct", depth)
        checkpoint = gradients(model, "checkpoint", depth)
        # Fewer cells than layers leave a layer of the none basis at a gradient of zero, not at none.
        assert direct.keys() == checkpoint.keys() == dict(model.named_parameters()).keys()
        for name in direct:
            assert torch.equal(direct[name], checkpoint[name]), name
            assert direct[name].abs().sum() > 0, name


def test_checkpoint_gives_the_direct_gradient_under_autocast_too() -> None:
    model = tiny_model()
    with torch.autocast("cpu", torch.bfloat16):
        direct, checkpoint = gradients(model, "direct"), gradients(model, "checkpoint")
    for name in direct:
        assert torch.equal(direct[name], checkpoint[name]), name


def test_checkpoint_holds_far_fewer_bytes_and_grows_slower() -> None:
    model = tiny_model(width=32, depth=8, context_length=64)
    tokens = ids(batch=4, time=64)

    def peak(gradient: str, depth: int) -> int:
        model.zero_grad()
        model.gradient = gradient
        return peak_bytes(lambda: loss(model, depth, tokens).backward())

    assert peak("checkpoint", 8) < peak("direct", 8) / 2
    growth = {gradient: peak(gradient, 16) - peak(gradient, 8) for gradient in ("direct", "checkpoint")}
    # Kept per cell: one state and one set of weights, against every activation besides.
    assert growth["checkpoint"] < growth["direct"] / 3


@pytest.mark.parametrize(
    ("solver", "tied", "gradient"),
    [
        *(
            (solver, solver == "rk4", g)
            for solver in ("euler", "rk4", "lie_trotter")
            for g in ("direct", "checkpoint")
        ),
        *((solver, True, "reversible") for solver in REVERSIBLE),
    ],
)
def test_gradients_equal_finite_differences(solver: str, tied: bool, gradient: str) -> None:
    """Each parameter along a direction of its own, by central differences in float64."""
    model = tiny_model(size=2, width=8, heads=2, tie_embeddings=tied).double()
    model.solver = solver
    attach_adapter(model, rank=2).double()
    model.gradient = gradient

    def exact_loss() -> torch.Tensor:
        tokens = ids()
        return token_losses(model(tokens[:, :-1], depth=3).logits, tokens[:, 1:]).mean()

    exact_loss().backward()
    step = 2e-5
    for name, parameter in model.named_parameters():
        direction = torch.randn_like(parameter)
        direction /= direction.norm()
        values = []
        with torch.no_grad():
            for offset in (1, -1, 2, -2):
                parameter.add_(direction, alpha=offset * step)
                values.append(float(exact_loss()))
                parameter.sub_(direction, alpha=offset * step)
        slope = (8 * (values[0] - values[1]) - (values[2] - values[3])) / (12 * step)
        expected = float((parameter.grad * direction).sum())
        assert slope == pytest.approx(expected, rel=1e-6, abs=1e-9), name


@pytest.mark.parametrize("gradient", ["direct", "checkpoint"])
def test_integrate_passes_gradcheck(gradient: str) -> None:
    grid = (0.0, 0.2, 0.7, 1.0)
    times: list[float] = []

    def end(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        def weights(t: torch.Tensor, h: torch.Tensor) -> dict[str, torch.Tensor]:
            times.extend(t.tolist())
            return {name: factor * w for name, w in rotating_weights(t, h).items()}

        return integrate(LinearField(), weights, x, grid, solver=solver_named("heun"), gradient=gradient)

    x = torch.randn(1, 2, 3, dtype=torch.float64, requires_grad=True)
    factor = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(end, (x, factor))
    times.clear()
    end(x, factor).sum().backward()
    # One call for all nodes of all cells, in the backward pass none.
    assert times == pytest.approx([0.0, 0.2, 0.2, 0.7, 0.7, 1.0])


def test_time_is_never_rounded_to_half_precision() -> None:
    seen = []

    def weights(t: torch.Tensor, h: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append((t.dtype, h.dtype))
        return {name: w.to(torch.bfloat16) for name, w in rotating_weights(t.double(), h).items()}

    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        with torch.autocast("cpu", torch.bfloat16):
            x = torch.ones(1, 1, 3, dtype=dtype)
            integrate(LinearField(), weights, x, uniform_grid(3), solver=SOLVERS["euler"], gradient="direct")
    assert seen == [(torch.float32, torch.float32)] * 3


def test_unknown_gradient_names_those_there_are() -> None:
    model = tiny_model()
    model.gradient = "telepathy"
    with pytest.raises(ValueError, match=r"'telepathy' is unknown.*checkpoint, direct, reversible"):
        model(ids())


def relative_error(seen: dict[str, Any], expected: dict[str, Any]) -> float:
    """Of the whole parameter vector, in the relative 2-norm."""
    assert seen.keys() == expected.keys()
    difference = sum(float((seen[name] - expected[name]).square().sum()) for name in expected)
    return (difference / sum(float(g.square().sum()) for g in expected.values())) ** 0.5


@pytest.mark.parametrize("solver", REVERSIBLE)
@pytest.mark.parametrize("kind", ["smooth_mlp", "none"])
def test_the_reversible_gradient_is_the_direct_one(kind: str, solver: str) -> None:
    model = tiny_model(kind, 4).double()
    model.solver = solver
    attach_adapter(model, rank=2).double()
    for depth in (1, 3, 12):  # less than, and more than, the cells whose weights exist at once
        direct = gradients(model, "direct", depth)
        assert relative_error(gradients(model, "reversible", depth), direct) < 1e-9
    single = tiny_model(kind, 4)
    single.solver = solver
    assert relative_error(gradients(single, "reversible", 12), gradients(single, "direct", 12)) < 1e-5


def test_the_reversible_gradient_trains_an_adapter_on_frozen_weights() -> None:
    model = tiny_model().double().requires_grad_(False)
    model.solver = "leapfrog"
    attach_adapter(model, rank=2).double()
    direct = gradients(model, "direct", 5)
    assert all("_lora_" in name for name in direct)
    assert relative_error(gradients(model, "reversible", 5), direct) < 1e-9


def test_the_reversible_gradient_under_autocast_is_close_to_the_direct_one() -> None:
    model = tiny_model()
    model.solver = "leapfrog"
    exact = gradients(model, "direct", 8)
    with torch.autocast("cpu", torch.bfloat16):
        direct, reversible = gradients(model, "direct", 8), gradients(model, "reversible", 8)
    rounding = relative_error(direct, exact)
    assert rounding > 1e-4, "nothing was computed in bf16"
    # The states that products are taken of are the same ones, so little of the rounding differs.
    assert relative_error(reversible, direct) < rounding


def test_the_reversible_gradient_keeps_nothing_for_each_cell() -> None:
    model = tiny_model(width=32, depth=4, context_length=64)
    model.solver, model.gradient = "leapfrog", "reversible"
    tokens = ids(batch=4, time=64)

    def saved_bytes(depth: int) -> int:
        storages: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = loss(model, depth, tokens)
        del result
        return sum(storages.values())

    def peak(depth: int) -> int:
        model.zero_grad()
        return peak_bytes(lambda: loss(model, depth, tokens).backward())

    assert saved_bytes(48) == saved_bytes(12)
    assert peak(48) <= 1.01 * peak(12)


def test_what_cannot_be_undone_is_refused() -> None:
    model = tiny_model()
    model.gradient = "reversible"
    with pytest.raises(ValueError, match="needs a solver that can be undone: leapfrog, damped_leapfrog"):
        model(ids())
    model.solver = "leapfrog"
    with pytest.raises(ValueError, match="give no weights made beforehand"):
        model(ids(), weights=model.depth_weights())


def test_leapfrog_recovers_every_float32_state_bit_for_bit() -> None:
    model = tiny_model()
    solver, depth = SOLVERS["leapfrog"], 40
    assert isinstance(solver, ReversibleSolver)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        x = model.embedding(ids())
        field, weights = build_field(model.config, x, training=False), model.depth_weights(depth)
        blocks = [[{name: w[cell] for name, w in weights.items()}] for cell in range(depth)]
        cells = [Cell(4 / depth, 4 / depth if cell else 0.0) for cell in range(depth)]
        states = [solver.start(x)]
        for cell, own in zip(cells, blocks, strict=True):
            states.append(solver.step(field, states[-1], cell, own))
        assert float((states[-1][1] - states[0][1]).norm() / states[0][1].norm()) > 0.1
        state = states.pop()
        for cell, own in zip(reversed(cells), reversed(blocks), strict=True):
            state = solver.reverse(field, state, cell, own)
            assert torch.equal(state[1].float(), states.pop()[1].float())
