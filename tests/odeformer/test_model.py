import os
from dataclasses import dataclass, field

import pytest
import torch
from tiny_models import CONTEXT, VOCABULARY, attach_adapter, config, ids, loss, tiny_model
from torch import Tensor, nn

from odeformer.depth import uniform_grid
from odeformer.field.neox import NeoXField
from odeformer.field.parts import BlockWeights, rotary_table
from odeformer.gradients.integrate import integrate
from odeformer.hypernetwork import depth_parameters
from odeformer.model import Odeformer, SolveOptions, parameter_count, token_losses
from odeformer.solvers import SOLVERS


@pytest.mark.parametrize(("kind", "size"), [("smooth_mlp", 1), ("smooth_mlp", 3), ("none", 4)])
@pytest.mark.parametrize("tied", [True, False])
def test_parameter_count_equals_the_real_sum(kind: str, size: int, tied: bool) -> None:
    shape = config(kind, size, tie_embeddings=tied)
    model = Odeformer(shape)
    assert parameter_count(shape) == sum(p.numel() for p in model.parameters())
    table = VOCABULARY * shape.width
    outside = (1 if tied else 2) * table + 2 * shape.width  # embeddings and the final norm: no depth weights
    assert parameter_count(shape) - depth_parameters(shape) == outside
    owned = sum(p.numel() for p in model.hypernetwork.parameters())
    assert owned == depth_parameters(shape)


def test_fewer_weight_sets_than_layers_make_a_smaller_model() -> None:
    shape = config(size=8, width=64, heads=4, depth=8)
    counts = [
        parameter_count(shape.model_copy(update={"basis": shape.basis.model_copy(update={"size": k})}))
        for k in (1, 2, 4, 8)
    ]
    assert counts == sorted(counts)
    ordinary = parameter_count(shape.ordinary())
    block = 12 * 64**2 + 13 * 64
    assert ordinary == VOCABULARY * 64 + 2 * 64 + 8 * block
    assert counts[2] < 0.55 * ordinary
    assert counts[3] < 1.02 * ordinary  # K = D costs what an ordinary model costs


def test_counting_does_not_disturb_the_random_numbers() -> None:
    before = torch.get_rng_state()
    parameter_count(config())
    assert torch.equal(torch.get_rng_state(), before)


def test_same_seed_same_model() -> None:
    def build(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return Odeformer(config()).state_dict()

    one, again, other = build(1), build(1), build(2)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_default_depth_is_the_model_depth() -> None:
    model = tiny_model().eval()
    with torch.no_grad():
        assert torch.equal(model(ids()).logits, model(ids(), depth=4).logits)
        assert not torch.equal(model(ids()).logits, model(ids(), depth=5).logits)


def test_more_cells_approach_the_solution_of_the_differential_equation() -> None:
    model = Odeformer(config("smooth_mlp", 2)).double().eval()
    with torch.no_grad():
        model.options = SolveOptions("rk4")
        exact = model(ids(), depth=256).logits
        model.options = SolveOptions("euler")
        errors = [float((model(ids(), depth=n).logits - exact).norm()) for n in (64, 128, 256)]
    assert 1.85 < errors[0] / errors[1] < 2.15
    assert 1.85 < errors[1] / errors[2] < 2.15


def test_weights_can_be_generated_once_and_used_often() -> None:
    model = tiny_model().eval()
    for solver in SOLVERS:
        model.options = SolveOptions(solver)
        with torch.no_grad():
            weights = model.depth_weights(3)
            for seed in (0, 1):
                given = model(ids(seed=seed), depth=3, weights=weights).logits
                assert torch.equal(given, model(ids(seed=seed), depth=3).logits)


@pytest.mark.parametrize("made_for", [2, 8])
def test_weights_of_another_depth_are_refused(made_for: int) -> None:
    model = tiny_model().eval()
    with torch.no_grad(), pytest.raises(ValueError, match=r"weights at . times were given, but . cells need"):
        model(ids(), depth=4, weights=model.depth_weights(made_for))


def test_double_runs_in_float64() -> None:
    model = tiny_model().double()
    attach_adapter(model, rank=2).double()
    seen: list[torch.dtype] = []
    model.hypernetwork.register_forward_pre_hook(lambda _, inputs: seen.extend(x.dtype for x in inputs))
    logits = model(ids()).logits
    assert seen == [torch.float64, torch.float64]
    assert logits.dtype == torch.float64
    assert all(w.dtype == torch.float64 for w in model.depth_weights().values())
    torch.testing.assert_close(model.float()(ids()).logits, logits.float(), rtol=1e-4, atol=1e-4)


@dataclass(frozen=True)
class WatchedField(NeoXField):
    """The real field, writing down the dtypes of the state it is given and of the branch it gives."""

    seen: set[tuple[torch.dtype, torch.dtype]] = field(default_factory=set)

    def __call__(self, x: Tensor, w: BlockWeights) -> Tensor:
        branch = super().__call__(x, w)
        self.seen.add((x.dtype, branch.dtype))
        return branch


@pytest.mark.parametrize("solver", ["euler", "rk4"])
def test_bf16_is_for_the_products_only(solver: str) -> None:
    model = tiny_model()
    attach_adapter(model, rank=2)
    model.options = SolveOptions(solver)
    dtypes: dict[str, set[torch.dtype]] = {
        "t": set(),
        "coefficients": set(),
        "weights": set(),
        "state": set(),
    }

    def watch_weights(_: nn.Module, inputs: tuple[Tensor, ...], weights: BlockWeights) -> None:
        dtypes["t"] |= {x.dtype for x in inputs}
        dtypes["weights"] |= {w.dtype for w in weights.values()}

    def watch_coefficients(_: nn.Module, inputs: tuple[Tensor, ...], coefficients: Tensor) -> None:
        dtypes["t"] |= {x.dtype for x in inputs}
        dtypes["coefficients"].add(coefficients.dtype)

    model.hypernetwork.register_forward_hook(watch_weights)
    model.hypernetwork.basis.register_forward_hook(watch_coefficients)
    model.final_norm.register_forward_pre_hook(lambda _, x: dtypes["state"].add(x[0].dtype))
    exact = loss(model, depth=6)
    with torch.autocast("cpu", torch.bfloat16):
        rough = loss(model, depth=6)
        logits = model(ids(), depth=6).logits
        field = WatchedField(model.config, *rotary_table(model.config, 10, torch.zeros(())))
        x = model.embedding(ids())
        for depth in (4, 6):
            grid = uniform_grid(depth)
            x, _ = integrate(
                field, model.hypernetwork, x, grid, solver=SOLVERS[solver], gradient="checkpoint"
            )
            assert x.dtype == torch.float32
    assert dtypes == {key: {torch.float32} for key in dtypes}
    assert field.seen == {(torch.float32, torch.bfloat16)}
    assert logits.dtype == torch.bfloat16
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().item() < 2e-2


def test_bf16_gradients_are_float32_and_close() -> None:
    model = tiny_model()
    loss(model).backward()
    exact = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        rough = loss(model)
    rough.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.float32
        error = (parameter.grad - exact[name]).norm() / exact[name].norm()
        assert error < 0.1, name


def test_token_losses_equal_the_definition() -> None:
    logits, targets = torch.randn(2, 3, 5), torch.randint(5, (2, 3))
    losses = token_losses(logits, targets)
    assert losses.shape == (2, 3)
    for row in range(2):
        for place in range(3):
            scores = logits[row, place]
            expected = scores.exp().sum().log() - scores[targets[row, place]]
            assert losses[row, place] == pytest.approx(float(expected), abs=1e-5)
    assert token_losses(logits.bfloat16(), targets).dtype == torch.float32


@pytest.mark.parametrize("depth", [0, -2])
def test_depth_below_one_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth {depth} "):
        tiny_model()(ids(), depth=depth)


@pytest.mark.parametrize("bad", [-1, VOCABULARY, VOCABULARY + 100])
def test_ids_outside_the_vocabulary_are_refused(bad: int) -> None:
    tokens = ids()
    tokens[1, 3] = bad
    with pytest.raises(IndexError, match="out of range"):
        tiny_model()(tokens)


def test_a_longer_sequence_than_the_context_is_refused() -> None:
    model = tiny_model()
    model(ids(length=CONTEXT))
    with pytest.raises(ValueError, match=f"{CONTEXT + 1} tokens .* context_length {CONTEXT}"):
        model(ids(length=CONTEXT + 1))


def test_unknown_solver_is_refused() -> None:
    model = tiny_model()
    model.options = SolveOptions("ruler")
    with pytest.raises(ValueError, match="solver 'ruler' is unknown"):
        model(ids())


def test_a_few_steps_of_training_lower_the_loss_at_every_depth() -> None:
    model = Odeformer(config(size=3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with torch.no_grad():
        before = {depth: float(loss(model, depth)) for depth in (2, 4, 8)}
    for step in range(30):
        optimizer.zero_grad()
        loss(model, depth=(2, 4, 8)[step % 3]).backward()
        optimizer.step()
    with torch.no_grad():
        for depth, start in before.items():
            assert float(loss(model, depth)) < start - 1


def test_weights_that_no_memory_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model().eval()
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 100}.__getitem__)
    assert model(ids(), depth=8).logits.isfinite().all()
    with pytest.raises(
        ValueError, match=r"depth 4000 is too large: its weights have [\d.]+ GiB, this machine 0\.0"
    ):
        model(ids(), depth=4000)
