"""Error-controlled solves: their accuracy, their count, their gradient and their limits."""

from typing import Any

import pytest
import torch
from test_solvers import PROBLEMS, START, TanhField
from tiny_models import gradients, ids, relative_error, tiny_model

from odeformer.depth import Grid
from odeformer.gradients import Solution, integrate
from odeformer.gradients.adaptive import TooManyEvaluationsError
from odeformer.model import token_losses
from odeformer.solvers import ADAPTIVE_SOLVERS, Tolerance


def solve(problem: str, name: str, tolerance: Tolerance) -> Solution:
    field, weights, _ = PROBLEMS[problem]
    return solve_field(field, weights, name, tolerance)


def solve_field(
    field: Any, weights: Any, name: str, tolerance: Tolerance, grid: Grid = (0.0, 1.0)
) -> Solution:
    solver = ADAPTIVE_SOLVERS[name]
    return integrate(field, weights, START, grid, solver=solver, gradient="direct", tolerance=tolerance)


@pytest.mark.parametrize("name", ADAPTIVE_SOLVERS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_smaller_tolerance_costs_more_and_errs_less(problem: str, name: str) -> None:
    exact = PROBLEMS[problem][2]()
    errors, counts = [], []
    for tolerance in (1e-3, 1e-5, 1e-7):
        end, evaluations = solve(problem, name, Tolerance(tolerance, tolerance))
        errors.append(float((end - exact).abs().max()))
        counts.append(evaluations[0])
        assert errors[-1] < 30 * tolerance
    assert errors == sorted(errors, reverse=True)
    assert counts == sorted(counts)


def test_weights_are_never_asked_for_outside_of_the_depth() -> None:
    field, weights, _ = PROBLEMS["nonlinear"]
    seen = []

    def watched(t: torch.Tensor, h: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append(float(t))
        return weights(t, h)

    solve_field(field, watched, "dopri5", Tolerance(), (0.25, 0.75))
    assert min(seen) == 0.25
    assert 0.7 < max(seen) <= 0.75


@pytest.mark.parametrize("name", ADAPTIVE_SOLVERS)
def test_the_model_agrees_with_a_fine_solve_by_fixed_cells(name: str) -> None:
    model = tiny_model().double()
    with torch.no_grad():
        model.solver = "rk4"
        expected = model(ids(), depth=200).logits
        model.solver = name
        seen = model(ids(), depth=Tolerance(1e-7, 1e-7, max_evaluations=5000))
    torch.testing.assert_close(seen.logits, expected, atol=1e-5, rtol=0)
    assert len(set(seen.evaluations)) == 1


def test_sequences_solved_one_by_one_have_their_own_counts() -> None:
    model = tiny_model()
    model.solver = "dopri5"
    tokens = ids(batch=6, time=12)
    alone = Tolerance(1e-5, 1e-5, per_sequence=True)
    with torch.no_grad():
        together = model(tokens, depth=alone)
        assert len(set(together.evaluations)) > 1, "nothing to tell apart"
        for row in range(6):
            one = model(tokens[row : row + 1], depth=Tolerance(1e-5, 1e-5))
            torch.testing.assert_close(one.logits[0], together.logits[row], atol=1e-5, rtol=0)
            assert one.evaluations == (together.evaluations[row],)


@pytest.mark.parametrize("gradient", ["direct", "adjoint"])
def test_its_gradients_approach_those_of_a_fine_solve(gradient: str) -> None:
    model = tiny_model().double()
    model.solver = "rk4"
    expected = gradients(model, "direct", 300)
    model.zero_grad()
    model.solver, model.gradient = "dopri5", gradient
    tokens = ids()
    logits = model(tokens[:, :-1], depth=Tolerance(1e-8, 1e-8, max_evaluations=5000)).logits
    token_losses(logits, tokens[:, 1:]).mean().backward()
    seen = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert relative_error(seen, expected) < 1e-5


def test_a_solve_that_would_not_end_stops_with_the_time_it_reached() -> None:
    with pytest.raises(TooManyEvaluationsError, match=r"come to t = 0\.\d+ after 40 evaluations") as stopped:
        solve("linear", "bosh3", Tolerance(1e-9, 1e-9, max_evaluations=40))
    assert 0 < stopped.value.reached < 1


def test_an_infinite_slope_is_named_by_its_time() -> None:
    def poisoned(t: torch.Tensor, h: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"w": torch.where(t > 0.5, torch.inf, 1.0)}

    with pytest.raises(FloatingPointError, match=r"at t = 0\.[5-9]"):
        solve_field(TanhField(), poisoned, "dopri5", Tolerance())


def test_depths_and_tolerances_are_not_mixed_up() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match="needs an adaptive solver: dopri5, bosh3"):
        model(ids(), depth=Tolerance())
    with pytest.raises(ValueError, match="cannot use weights made beforehand"):
        model(ids(), depth=Tolerance(), weights=model.depth_weights())
    model.solver = "dopri5"
    with pytest.raises(ValueError, match="takes a Tolerance in place of a depth"):
        model(ids(), depth=4)
    with pytest.raises(ValueError, match="'dopri5' chooses its own times"):
        model.depth_weights(4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"relative": 0.0}, "relative tolerance 0.0 must be above 0"),
        ({"absolute": -1.0}, "absolute tolerance -1.0 must be above 0"),
        ({"relative": float("nan")}, "relative tolerance nan"),
        ({"max_evaluations": 0}, "max_evaluations 0 must be at least 1"),
    ],
)
def test_senseless_tolerances_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tolerance(**fields)  # type: ignore[arg-type]
