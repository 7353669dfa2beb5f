"""The prelude: whole layers before the flow, the same at every depth and with every solver."""

import pytest
import torch
from test_solvers import REVERSIBLE
from tiny_models import gradients, ids, relative_error, tiny_model

from odeformer.config import BasisConfig, ModelConfig
from odeformer.depth import layered_grid
from odeformer.hypernetwork import build_basis
from odeformer.model import SolveOptions
from odeformer.solvers import SOLVERS, node_times


@pytest.mark.parametrize("solver", ["euler", "lie_trotter"])
def test_at_the_model_depth_nothing_tells_it_from_the_flow(solver: str) -> None:
    models = []
    for prelude in (0, 1, 2):
        torch.manual_seed(3)
        models.append(tiny_model("smooth_mlp", 4, prelude=prelude))
        models[-1].options = SolveOptions(solver)
    with torch.no_grad():
        expected, *others = (model(ids()).logits for model in models)
        assert all(torch.equal(expected, other) for other in others)
        without, one, two = (model(ids(), depth=7).logits for model in models)
        assert not torch.allclose(without, one, atol=1e-3)
        assert not torch.allclose(one, two, atol=1e-3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_it_is_one_layer_whatever_solves_the_flow(solver: str) -> None:
    model = tiny_model(prelude=1)
    with torch.no_grad():
        reference, field = model.flow_start(ids())
        weights = model.hypernetwork(torch.tensor([1 / 8]), torch.tensor([1 / 4]))
        layer = {name: stacked[0] for name, stacked in weights.items()}
        x = model.embed(ids())
        torch.testing.assert_close(reference, x + field(x, layer))
        model.options = SolveOptions(solver)
        if solver != "lie_trotter":  # whose own step is a layer too
            assert torch.equal(model.flow_start(ids())[0], reference)
        assert model(ids(), depth=5).evaluations == 1 + 4 * SOLVERS[solver].evaluations


@pytest.mark.parametrize("solver", REVERSIBLE)
def test_every_gradient_reaches_its_weights(solver: str) -> None:
    model = tiny_model("none", 4, prelude=2).double()
    model.options = SolveOptions(solver)
    direct = gradients(model, "direct", 6)
    assert all(direct[f"hypernetwork.{name}_weight"][:2].abs().sum() > 0 for name in ("qkv", "down"))
    for gradient in ("checkpoint", "reversible"):
        assert relative_error(gradients(model, gradient, 6), direct) < 1e-9


@pytest.mark.parametrize(("prelude", "size", "depth"), [(1, 4, 8), (2, 3, 12), (1, 2, 5), (1, 6, 6)])
def test_the_sets_are_shared_out_between_it_and_the_flow(prelude: int, size: int, depth: int) -> None:
    """At N = K cells piecewise linear coefficients are the K sets themselves, one for each cell."""
    times, widths = node_times(SOLVERS["euler"], layered_grid(size, prelude, depth))
    basis = build_basis(BasisConfig(kind="linear", size=size), 1, depth, prelude)
    coefficients = basis(torch.tensor(times), torch.tensor(widths))[0]
    torch.testing.assert_close(coefficients, torch.eye(size), atol=1e-6, rtol=0)


def test_it_is_one_layer_by_default_but_none_in_the_published_flavour() -> None:
    def prelude(**changes: object) -> int:
        shape = {"width": 16, "heads": 2, "depth": 4, "rotary_fraction": 0.5, "basis": {"size": 2}, **changes}
        return ModelConfig.model_validate(shape).prelude_layers

    assert prelude() == 1
    assert prelude(depth=1, basis={"size": 1}) == 0
    assert prelude(prelude=3) == 3
    assert prelude(flavour="paper", rotary_fraction=None) == 0
    with pytest.raises(ValueError, match="prelude 4 must be less than depth 4"):
        prelude(prelude=4)
    with pytest.raises(ValueError, match="depth 1 is too small: at least 2 cells"):
        tiny_model()(ids(), depth=1)
