"""Error-controlled solves: their accuracy, their count, their gradient and their limits."""

from typing import Any

import pytest
import torch
from test_solvers import PROBLEMS, START, TanhField
from tiny_models import gradients, ids, relative_error, tiny_model

from odeformer.model import SolveOptions, token_losses
from odeformer.research.adaptive import Tolerance, TooManyEvaluationsError, run_adaptively, solve_adaptively

METHODS = ("dopri5", "bosh3")


def solve(problem: str, name: str, tolerance: Tolerance) -> tuple[torch.Tensor, tuple[int, ...]]:
    field, weights, _ = PROBLEMS[problem]
    return solve_field(field, weights, name, tolerance)


def solve_field(
    field: Any, weights: Any, name: str, tolerance: Tolerance, ends: tuple[float, float] = (0.0, 1.0)
) -> tuple[torch.Tensor, tuple[int, ...]]:
    return solve_adaptively(field, weights, START, ends, tolerance, name)


@pytest.mark.parametrize("name", METHODS)
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


@pytest.mark.parametrize("name", METHODS)
def test_the_model_agrees_with_a_fine_solve_by_fixed_cells(name: Any) -> None:
    model = tiny_model().double()
    with torch.no_grad():
        model.options = SolveOptions("rk4")
        expected = model(ids(), depth=200).logits
        seen = run_adaptively(model, ids(), Tolerance(1e-7, 1e-7, max_evaluations=5000), name)
    torch.testing.assert_close(seen.logits, expected, atol=1e-5, rtol=0)
    assert len(set(seen.evaluations)) == 1


def test_sequences_solved_one_by_one_have_their_own_counts() -> None:
    model = tiny_model()
    tokens = ids(batch=6, length=12)
    alone = Tolerance(1e-5, 1e-5, per_sequence=True)
    with torch.no_grad():
        together = run_adaptively(model, tokens, alone)
        assert len(set(together.evaluations)) > 1, "nothing to tell apart"
        for row in range(6):
            one = run_adaptively(model, tokens[row : row + 1], Tolerance(1e-5, 1e-5))
            torch.testing.assert_close(one.logits[0], together.logits[row], atol=1e-5, rtol=0)
            assert one.evaluations == (together.evaluations[row],)


@pytest.mark.parametrize("gradient", ["direct", "adjoint"])
def test_its_gradients_approach_those_of_a_fine_solve(gradient: Any) -> None:
    model = tiny_model().double()
    model.options = SolveOptions("rk4")
    expected = gradients(model, "direct", 300)
    model.zero_grad()
    tokens, exact = ids(), Tolerance(1e-8, 1e-8, max_evaluations=5000)
    logits = run_adaptively(model, tokens[:, :-1], exact, gradient=gradient).logits
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
