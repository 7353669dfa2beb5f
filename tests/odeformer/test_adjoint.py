"""The continuous adjoint: close to the direct gradient by the solver's order, and no closer."""

import warnings

import pytest
import torch
from tiny_models import attach_adapter, gradients, ids, loss, relative_error, shake, tiny_model

from odeformer.measure.memory import peak_bytes, saved_bytes
from odeformer.model import SolveOptions


def adjoint_error(solver: str, depth: int, **shape: int) -> float:
    torch.manual_seed(0)
    model = tiny_model(**shape).double()
    model.options = SolveOptions(solver)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return relative_error(gradients(model, "adjoint", depth), gradients(model, "direct", depth))


@pytest.mark.parametrize(
    ("solver", "order", "cells"), [("euler", 1, 96), ("midpoint", 2, 96), ("rk4", 4, 48)]
)
def test_its_error_falls_at_the_order_of_the_solver(solver: str, order: int, cells: int) -> None:
    coarse, fine = adjoint_error(solver, cells), adjoint_error(solver, 2 * cells)
    assert coarse / fine == pytest.approx(2**order, rel=0.3)
    assert fine < 0.2


def test_it_trains_an_adapter_on_frozen_weights() -> None:
    model = tiny_model().double().requires_grad_(False)
    model.options = SolveOptions("rk4")
    adapter = attach_adapter(model, trained=False, rank=2).double()
    shake(adapter, 0.03)  # gently: the adjoint of a stiff model is wrong at any affordable depth
    seen = gradients(model, "adjoint", 64)
    assert all("_lora_" in name for name in seen)
    assert relative_error(seen, gradients(model, "direct", 64)) < 3e-3


def test_its_backward_pass_runs_in_the_precision_of_the_forward_one() -> None:
    model = tiny_model()
    model.options = SolveOptions("rk4")
    exact = gradients(model, "adjoint", 16)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(model, 16)
    model.zero_grad()
    value.backward()
    half = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert 1e-3 < relative_error(half, exact) < 5e-2


def test_it_keeps_nothing_for_each_cell() -> None:
    model = tiny_model(width=32, context_length=32)
    model.options = SolveOptions("midpoint", "adjoint")
    tokens = ids(batch=2, length=32)
    saved, peak = (
        [measure(depth) for depth in (8, 24)]
        for measure in (
            lambda depth: saved_bytes(lambda: loss(model, depth, tokens)),
            lambda depth: peak_bytes(lambda: loss(model, depth, tokens).backward()),
        )
    )
    assert saved[1] <= saved[0] + 24 * 8, "the grid alone may be longer"
    assert peak[1] <= 1.01 * peak[0]


def test_a_rough_pairing_warns_and_an_impossible_one_is_refused() -> None:
    model = tiny_model()
    with pytest.warns(UserWarning, match="off by several percent.*'checkpoint' is exact"):
        gradients(model, "adjoint", 24)
    model.options = SolveOptions("rk4")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradients(model, "adjoint", 24)
    model.options = SolveOptions("lie_trotter", "adjoint")
    with pytest.raises(ValueError, match=r"'adjoint' needs a Runge–Kutta solver: euler, midpoint"):
        model(ids())
