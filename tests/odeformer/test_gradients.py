from dataclasses import replace

import pytest
import torch
from test_solvers import REVERSIBLE, LinearField, rotating_weights
from tiny_models import attach_adapter, gradients, ids, loss, tiny_model

from odeformer.depth import uniform_grid
from odeformer.field import build_field
from odeformer.gradients.integrate import integrate
from odeformer.measure.memory import peak_bytes, saved_bytes
from odeformer.model import SolveOptions, token_losses
from odeformer.solvers import SOLVERS, FixedPoint


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("kind", "size"), [("smooth_mlp", 3), ("none", 4)])
def test_checkpoint_gives_the_direct_gradient_bit_for_bit(kind: str, size: int, solver: str) -> None:
    model = tiny_model(kind, size)
    model.options = SolveOptions(solver)
    attach_adapter(model, rank=2)
    for depth in (4, 3, 7):
        direct = gradients(model, "direct", depth)
        checkpoint = gradients(model, "checkpoint", depth)
        # Fewer cells than layers leave a layer of the none basis at a gradient of zero, not at none.
        assert direct.keys() == checkpoint.keys() == dict(model.named_parameters()).keys()
        for name in direct:
            assert torch.equal(direct[name], checkpoint[name]), name
            assert direct[name].abs().sum() > 0, name


@pytest.mark.parametrize("segment", [2, 3, 10])
def test_segments_give_the_direct_gradient_bit_for_bit(segment: int) -> None:
    model = tiny_model()
    direct = gradients(model, "direct", 7)
    model.options = replace(model.options, segment=segment)
    segments = gradients(model, "checkpoint", 7)
    for name in direct:
        assert torch.equal(direct[name], segments[name]), name


def test_segments_keep_fewer_states_for_longer_recomputation() -> None:
    model = tiny_model(width=32, depth=8, context_length=64, prelude=0)
    model.options = replace(model.options, gradient="checkpoint")
    tokens = ids(batch=4, length=64)

    def saved(segment: int) -> int:
        model.options = replace(model.options, segment=segment)
        return saved_bytes(lambda: loss(model, 96, tokens))

    state = 4 * 63 * 32 * 4
    each = state + torch.get_rng_state().nbytes
    assert saved(1) - saved(4) == pytest.approx((96 - 24) * each, rel=0.01)


def test_a_state_that_is_not_finite_is_named_by_its_cell_and_time() -> None:
    model = tiny_model()

    def poisoned(t: torch.Tensor, h: torch.Tensor) -> dict[str, torch.Tensor]:
        weights = model.hypernetwork(t, h)
        weights["down_weight"] = weights["down_weight"].clone()
        weights["down_weight"][t > 0.5] = float("inf")
        return weights

    x = torch.randn(2, 5, 16)
    field = build_field(model.config, x, training=False)
    with torch.no_grad(), pytest.raises(FloatingPointError, match=r"cell 5 of 8, from t = 0.5 to 0.625"):
        integrate(field, poisoned, x, uniform_grid(8), solver=SOLVERS["euler"], gradient="direct")
    with torch.no_grad(), pytest.raises(FloatingPointError, match=r"at t = 0, before the solve"):
        integrate(field, poisoned, x / 0, uniform_grid(8), solver=SOLVERS["euler"], gradient="direct")
    # A training loop sees the loss of all workers, and stops all of them.
    end = integrate(field, poisoned, x, uniform_grid(8), solver=SOLVERS["euler"], gradient="direct").x
    assert not end.isfinite().any()


@pytest.mark.parametrize(
    ("solver", "evaluations"), [("euler", 6), ("rk4", 24), ("lie_trotter", 6), ("reversible_euler", 12)]
)
def test_evaluations_of_the_field_are_counted(solver: str, evaluations: int) -> None:
    model = tiny_model()
    model.options = SolveOptions(solver)
    calls = []

    class Counted(type(build_field(model.config, torch.zeros(1, 1, 16), training=False))):  # type: ignore[misc]
        def attention(self, x: torch.Tensor, w: dict[str, torch.Tensor]) -> torch.Tensor:
            calls.append(x.shape)
            return super().attention(x, w)

    x = torch.randn(2, 5, 16)
    field = Counted.at(model.config, x, False)
    solved = integrate(
        field, model.hypernetwork, x, uniform_grid(6), solver=SOLVERS[solver], gradient="direct"
    )
    assert solved.evaluations == evaluations
    assert len(calls) == evaluations


def test_checkpoint_gives_the_direct_gradient_under_autocast_too() -> None:
    model = tiny_model()
    with torch.autocast("cpu", torch.bfloat16):
        direct, checkpoint = gradients(model, "direct"), gradients(model, "checkpoint")
    for name in direct:
        assert torch.equal(direct[name], checkpoint[name]), name


def test_checkpoint_holds_far_fewer_bytes_and_grows_slower() -> None:
    model = tiny_model(width=32, depth=8, context_length=64)
    tokens = ids(batch=4, length=64)

    def peak(gradient: str, depth: int) -> int:
        model.zero_grad()
        model.options = replace(model.options, gradient=gradient)
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
        *((solver, True, "reversible") for solver in REVERSIBLE if solver != "fixed_point_leapfrog"),
    ],
)
def test_gradients_equal_finite_differences(
    solver: str, tied: bool, gradient: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each parameter along a direction of its own, by central differences in float64."""
    if solver == "damped_leapfrog":  # without its rounding, which has no derivative
        fixed = SOLVERS[solver]
        assert isinstance(fixed, FixedPoint)
        monkeypatch.setitem(SOLVERS, solver, fixed.base)
    model = tiny_model(size=2, width=8, heads=2, tie_embeddings=tied).double()
    model.options = SolveOptions(solver)
    attach_adapter(model, rank=2).double()
    model.options = replace(model.options, gradient=gradient)

    def exact_loss() -> torch.Tensor:
        tokens = ids()
        return token_losses(model(tokens[:, :-1], depth=3).logits, tokens[:, 1:]).mean()

    exact_loss().backward()
    step = 5e-6
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

        return integrate(LinearField(), weights, x, grid, solver=SOLVERS["heun"], gradient=gradient).x

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
    model.options = replace(model.options, gradient="telepathy")
    with pytest.raises(ValueError, match=r"'telepathy' is unknown.*checkpoint, direct, reversible"):
        model(ids())
