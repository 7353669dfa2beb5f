"""Solvers against ordinary differential equations whose solution is known."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from odeformer.depth import Grid, uniform_grid
from odeformer.field import BlockWeights
from odeformer.gradients.integrate import integrate
from odeformer.solvers import (
    SOLVERS,
    Cell,
    ReversibleSolver,
    RungeKutta,
    Solver,
    node_times,
    solver_named,
)

ORDERS = {
    "euler": 1,
    "midpoint": 2,
    "heun": 2,
    "rk4": 4,
    "lie_trotter": 1,
    "leapfrog": 2,
    "fixed_point_leapfrog": 2,
    "damped_leapfrog": 1,
    "reversible_euler": 1,
    "reversible_midpoint": 2,
}
SPEED = 4.0


@dataclass(frozen=True)
class LinearField:
    """x' = speed · (A x + F x) for x [..., n] and weights "a", "f" [n, n]: two parts that do not commute."""

    speed: float = SPEED

    def attention(self, x: Tensor, w: BlockWeights) -> Tensor:
        return x @ w["a"].T

    def feed_forward(self, x: Tensor, w: BlockWeights) -> Tensor:
        return x @ w["f"].T

    def __call__(self, x: Tensor, w: BlockWeights) -> Tensor:
        return self.attention(x, w) + self.feed_forward(x, w)


@dataclass(frozen=True)
class TanhField:
    """x' = speed · w(t) (1 − x²), whose solution is tanh(artanh x₀ + speed ∫ w)."""

    speed: float = SPEED

    def attention(self, x: Tensor, w: BlockWeights) -> Tensor:
        return w["w"] * torch.ones_like(x)

    def feed_forward(self, x: Tensor, w: BlockWeights) -> Tensor:
        return -w["w"] * x.square()

    def __call__(self, x: Tensor, w: BlockWeights) -> Tensor:
        return self.attention(x, w) + self.feed_forward(x, w)


@dataclass(frozen=True)
class SmoothField:
    """x' = tanh(A x) + tanh(F x)."""

    speed: float = 1.0

    def attention(self, x: Tensor, w: BlockWeights) -> Tensor:
        return torch.tanh(x @ w["a"].mT)

    def feed_forward(self, x: Tensor, w: BlockWeights) -> Tensor:
        return torch.tanh(x @ w["f"].mT + 0.3)

    def __call__(self, x: Tensor, w: BlockWeights) -> Tensor:
        return self.attention(x, w) + self.feed_forward(x, w)


torch.manual_seed(5)
SKEW = torch.randn(3, 3, dtype=torch.float64)
SKEW = SKEW - SKEW.T
MATRIX = torch.randn(3, 3, dtype=torch.float64)
START = torch.randn(1, 2, 3, dtype=torch.float64) / 4


def rotating_weights(t: Tensor, h: Tensor) -> BlockWeights:
    """A = S, F(t) = e^{tS} M e^{−tS}, over the speed: then x(t) = e^{tS} e^{tM} x₀."""
    turn = torch.matrix_exp(t[:, None, None] * SKEW)
    return {"a": SKEW.expand(len(t), 3, 3) / SPEED, "f": turn @ MATRIX @ turn.mT / SPEED}


def rotating_solution() -> Tensor:
    return START @ (torch.matrix_exp(SKEW) @ torch.matrix_exp(MATRIX)).T


def waving_weights(t: Tensor, h: Tensor) -> BlockWeights:
    return {"w": (torch.cos(3 * t) + 0.5 * t) / SPEED}


def tanh_solution() -> Tensor:
    return torch.tanh(torch.atanh(START) + math.sin(3) / 3 + 0.25)


PROBLEMS = {
    "linear": (LinearField(), rotating_weights, rotating_solution),
    "nonlinear": (TanhField(), waving_weights, tanh_solution),
}


def squeezed_grid(cells: int) -> Grid:
    """Cells of unequal width."""
    return tuple((i / cells + (i / cells) ** 2) / 2 for i in range(cells + 1))


@pytest.mark.parametrize("grid_of", [uniform_grid, squeezed_grid])
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence(name: str, problem: str, grid_of: Callable[[int], Grid]) -> None:
    field, weights, solution = PROBLEMS[problem]
    exact = solution()

    def error(cells: int) -> float:
        end = integrate(field, weights, START, grid_of(cells), solver=SOLVERS[name], gradient="direct").x
        assert end.dtype == torch.float64
        return float((end - exact).norm())

    coarse, fine = (32, 64) if name == "rk4" else (256, 512)
    slope = math.log2(error(coarse) / error(fine))
    assert slope == pytest.approx(ORDERS[name], abs=0.15)
    assert error(fine) < (1e-6 if ORDERS[name] == 4 else 0.05 if ORDERS[name] == 1 else 1e-3)


@pytest.mark.parametrize("name", ORDERS)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_order_on_random_smooth_fields(name: str, seed: int) -> None:
    """x' = tanh(A(t) x) + tanh(F(t) x + 0.3), A and F random and smooth, against RK4 on a finer grid."""
    draw = torch.Generator().manual_seed(seed)
    waves = torch.randn(2, 3, 3, 4, generator=draw, dtype=torch.float64) / 2
    start = torch.randn(1, 2, 3, generator=draw, dtype=torch.float64)

    def weights(t: Tensor, h: Tensor) -> BlockWeights:
        turn = torch.stack([torch.ones_like(t), t, (2 * t).sin(), (3 * t).cos()], dim=-1)
        a, f = (turn @ waves.flatten(1, 2).mT).unflatten(-1, (3, 3))
        return {"a": a, "f": f}

    def end(solver: Solver, cells: int) -> Tensor:
        grid = uniform_grid(cells)
        return integrate(SmoothField(), weights, start, grid, solver=solver, gradient="direct").x

    coarse = {4: 32, 2: 128, 1: 1024}[ORDERS[name]]
    solver = SOLVERS[name]
    exact = end(SOLVERS["rk4"], 2048 if ORDERS[name] == 4 else 512)
    errors = [float((end(solver, cells) - exact).norm()) for cells in (coarse, 2 * coarse)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(ORDERS[name], abs=0.1)


@pytest.mark.parametrize("name", [name for name, s in SOLVERS.items() if isinstance(s, RungeKutta)])
def test_tableau_is_explicit_and_consistent(name: str) -> None:
    solver = SOLVERS[name]
    assert isinstance(solver, RungeKutta)
    assert sum(solver.b) == pytest.approx(1)
    assert [len(row) for row in solver.a] == list(range(len(solver.b)))
    if name != "euler":  # euler reads x at the left edge but weights in the middle
        for node, row in zip(solver.at, solver.a, strict=True):
            assert sum(row) == pytest.approx(solver.nodes[node])


@pytest.mark.parametrize("name", ["euler", "lie_trotter"])
def test_a_whole_step_does_not_round_the_branch(name: str) -> None:
    # In float64, where h · speed = 1.0000000000000009 would show.
    field, x = LinearField(), torch.randn(2, 3, dtype=torch.float64)
    w = {"a": torch.randn(3, 3, dtype=torch.float64), "f": torch.zeros(3, 3, dtype=torch.float64)}
    for cells in (1, 3, 7, 11, 49, 100):  # h · speed is 1 up to rounding: it must become exactly 1
        grid = uniform_grid(cells)
        seen, _ = integrate(
            LinearField(float(cells)),
            lambda t, h: {key: tensor.expand(len(t), 3, 3) for key, tensor in w.items()},
            x,
            grid,
            solver=SOLVERS[name],
            gradient="direct",
        )
        expected = x
        for _ in range(cells):
            expected = expected + field.attention(expected, w)
        assert torch.equal(seen, expected), cells


def test_node_times_lie_in_their_cells() -> None:
    assert node_times(SOLVERS["euler"], uniform_grid(2)) == ([0.25, 0.75], [0.5, 0.5])
    times, widths = node_times(SOLVERS["rk4"], (0.0, 0.2, 1.0))
    assert times == pytest.approx([0.0, 0.1, 0.2, 0.2, 0.6, 1.0])
    assert widths == pytest.approx([0.2, 0.2, 0.2, 0.8, 0.8, 0.8])


def test_unknown_solver_names_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'ruler' is unknown.*euler.*rk4"):
        solver_named("ruler")


REVERSIBLE = [name for name, solver in SOLVERS.items() if isinstance(solver, ReversibleSolver)]


@pytest.mark.parametrize("name", REVERSIBLE)
def test_a_reversible_step_can_be_undone(name: str) -> None:
    solver = SOLVERS[name]
    assert isinstance(solver, ReversibleSolver)
    weights = rotating_weights(torch.rand(len(solver.nodes), dtype=torch.float64), torch.zeros(1))
    blocks = [{key: w[i] for key, w in weights.items()} for i in range(len(solver.nodes))]
    first, second = (Cell(scale=0.7, before=0.4, share=share) for share in (0.2, 0.7))
    states = [solver.start(torch.randn(2, 3, dtype=torch.float64))]
    for cell in (first, second):
        states.append(solver.step(LinearField(), states[-1], cell, blocks))
        assert float((solver.end(states[-1]) - solver.end(states[-2])).norm()) > 0.1
    state = states[-1]
    for cell, expected in ((second, states[1]), (first, states[0])):
        state = solver.reverse(LinearField(), state, cell, blocks)
        for recovered, original in zip(state, expected, strict=True):
            torch.testing.assert_close(recovered, original, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", REVERSIBLE)
def test_a_reversible_solver_begins_like_its_base(name: str) -> None:
    # One Euler or midpoint step is where the first cell must be, up to the coupling's O(h²).
    x, errors = START, []
    for h in (1e-3, 5e-4):
        solver = SOLVERS[name]
        weights = waving_weights(torch.tensor([node * h for node in solver.nodes]).double(), torch.zeros(1))
        blocks = [{"w": weights["w"][i]} for i in range(len(solver.nodes))]
        state = solver.step(TanhField(), solver.start(x), Cell(h * SPEED, 0.0, h), blocks)
        exact = torch.tanh(torch.atanh(x) + math.sin(3 * h) / 3 + h * h / 4)
        errors.append(float((solver.end(state) - exact).norm()))
    assert errors[0] / errors[1] > 3.5
