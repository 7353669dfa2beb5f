"""The reversible gradient: against the direct one, and what it keeps."""

from dataclasses import replace

import pytest
import torch
from test_solvers import REVERSIBLE, LinearField, rotating_weights
from tiny_models import attach_adapter, gradients, ids, loss, relative_error, tiny_model

from odeformer.depth import uniform_grid
from odeformer.field import build_field
from odeformer.gradients.integrate import integrate
from odeformer.measure.memory import peak_bytes, saved_bytes
from odeformer.model import SolveOptions
from odeformer.solvers import SOLVERS, Cell, ReversibleSolver


@pytest.mark.parametrize("solver", REVERSIBLE)
@pytest.mark.parametrize("kind", ["smooth_mlp", "none"])
def test_the_reversible_gradient_is_the_direct_one(kind: str, solver: str) -> None:
    model = tiny_model(kind, 4).double()
    model.options = SolveOptions(solver)
    attach_adapter(model, rank=2).double()
    for depth in (2, 3, 12):  # less than, and more than, the cells whose weights exist at once
        direct = gradients(model, "direct", depth)
        assert relative_error(gradients(model, "reversible", depth), direct) < 1e-9
    single = tiny_model(kind, 4)
    single.options = SolveOptions(solver)
    assert relative_error(gradients(single, "reversible", 12), gradients(single, "direct", 12)) < 1e-5


def test_the_reversible_gradient_trains_an_adapter_on_frozen_weights() -> None:
    model = tiny_model().double().requires_grad_(False)
    model.options = SolveOptions("leapfrog")
    attach_adapter(model, rank=2).double()
    direct = gradients(model, "direct", 5)
    assert all("_lora_" in name for name in direct)
    assert relative_error(gradients(model, "reversible", 5), direct) < 1e-9


def test_the_reversible_gradient_under_autocast_is_close_to_the_direct_one() -> None:
    model = tiny_model()
    model.options = SolveOptions("leapfrog")
    exact = gradients(model, "direct", 8)
    with torch.autocast("cpu", torch.bfloat16):
        direct, reversible = gradients(model, "direct", 8), gradients(model, "reversible", 8)
    rounding = relative_error(direct, exact)
    assert rounding > 1e-4, "nothing was computed in bf16"
    # The states that products are taken of are the same ones, so little of the rounding differs.
    assert relative_error(reversible, direct) < rounding


def test_the_reversible_gradient_keeps_nothing_for_each_cell() -> None:
    model = tiny_model(width=32, depth=4, context_length=64)
    model.options = SolveOptions("leapfrog", "reversible")
    tokens = ids(batch=4, length=64)

    def peak(depth: int) -> int:
        model.zero_grad()
        return peak_bytes(lambda: loss(model, depth, tokens).backward())

    saved = [saved_bytes(lambda n=n: loss(model, n, tokens)) for n in (12, 48)]
    assert saved[1] - saved[0] == 36 * (4 + 4), "the cells' t and h, nothing else"
    assert peak(48) <= 1.01 * peak(12)


def test_what_cannot_be_undone_is_refused() -> None:
    model = tiny_model()
    model.options = replace(model.options, gradient="reversible")
    with pytest.raises(ValueError, match="needs a reversible solver: leapfrog, fixed_point_leapfrog"):
        model(ids())
    model.options = SolveOptions("leapfrog", "reversible")
    with pytest.raises(
        ValueError, match=r"'reversible' generates W\(t\) itself: give no precomputed weights"
    ):
        model(ids(), weights=model.depth_weights())


@pytest.mark.parametrize("depth", [3, 40])
@pytest.mark.parametrize(
    ("name", "bits_of"),
    [
        ("leapfrog", torch.float32),
        ("fixed_point_leapfrog", torch.float64),
        ("damped_leapfrog", torch.float64),
    ],
)
def test_a_state_is_recovered_bit_for_bit(name: str, bits_of: torch.dtype, depth: int) -> None:
    """The plain leapfrog as its float32 values are; the fixed-point ones in every bit they have."""
    model = tiny_model()
    solver = SOLVERS[name]
    assert isinstance(solver, ReversibleSolver)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        x = model.embedding(ids())
        field, weights = build_field(model.config, x, training=False), model.depth_weights(depth)
        blocks = [[{name: w[cell] for name, w in weights.items()}] for cell in range(depth)]
        cells = [Cell(4 / depth, 4 / depth if cell else 0.0, 1 / depth) for cell in range(depth)]
        states = [solver.start(x)]
        for cell, own in zip(cells, blocks, strict=True):
            states.append(solver.step(field, states[-1], cell, own))
        if name == "damped_leapfrog":
            pushed = float(states[-1][2].double().abs().log2().max())
            assert 15 < pushed < 20 + 8, "the bits that were forgotten"
        assert float((states[-1][1] - states[0][1]).norm() / states[0][1].norm()) > 0.1
        state = states.pop()
        for cell, own in zip(reversed(cells), reversed(blocks), strict=True):
            state = solver.reverse(field, state, cell, own)
            expected = states.pop()
            for seen, original in zip(state, expected, strict=True):
                assert torch.equal(seen.to(bits_of), original.to(bits_of))


def test_the_fixed_point_gradient_is_the_straight_through_one() -> None:
    model = tiny_model()
    model.options = SolveOptions("fixed_point_leapfrog")
    with torch.autocast("cpu", torch.bfloat16):
        direct, reversible = gradients(model, "direct", 12), gradients(model, "reversible", 12)
    # Every state is the same in every bit: only the order of sums over cells differs.
    assert relative_error(reversible, direct) < 2e-3
    exact = tiny_model()
    exact.load_state_dict(model.state_dict())
    exact.options = SolveOptions("leapfrog")
    model.zero_grad()
    rounded = relative_error(gradients(model, "reversible", 12), gradients(exact, "direct", 12))
    assert rounded < 1e-5


def test_a_fixed_point_state_that_would_overflow_says_so() -> None:
    x = torch.full((1, 2, 3), 5e6)
    with torch.no_grad(), pytest.raises(FloatingPointError, match="not finite after cell 1 of 2"):
        integrate(
            LinearField(),
            rotating_weights,
            x.double(),
            uniform_grid(2),
            solver=SOLVERS["fixed_point_leapfrog"],
            gradient="direct",
        )
