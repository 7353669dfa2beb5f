import pytest
import torch
from tiny_models import attach_adapter, config, tiny_model

from odeformer.config import BasisConfig, ModelConfig
from odeformer.depth import uniform_grid
from odeformer.field import block_tensors
from odeformer.hypernetwork import Hypernetwork, depth_parameters
from odeformer.model import parameter_count
from odeformer.solvers import SOLVERS, node_times

NORMS = ("attention_norm_weight", "feed_forward_norm_weight")


def weights_at(hypernetwork: Hypernetwork, cells: int, solver: str = "euler") -> dict[str, torch.Tensor]:
    times, widths = node_times(SOLVERS[solver], uniform_grid(cells))
    with torch.no_grad():
        return hypernetwork(torch.tensor(times), torch.tensor(widths))


@pytest.mark.parametrize("size", [1, 2, 4, 16])
def test_weights_start_with_the_same_deviation_whatever_k(size: int) -> None:
    shape = config(size=size, width=64, heads=4, depth=16)
    squares: dict[str, list[float]] = {}
    for seed in range(3):
        torch.manual_seed(seed)
        for name, tensor in weights_at(Hypernetwork(shape), 16).items():
            squares.setdefault(name, []).append(float((tensor - tensor.mean()).square().mean()))
    drawn = {name: spec for name, spec in block_tensors(shape).items() if spec.std > 0}
    assert set(drawn) == {"qkv_weight", "out_weight", "up_weight", "down_weight"}
    for name, spec in drawn.items():
        deviation = (sum(squares[name]) / 3) ** 0.5
        # At K = 1 there are 3 · 4096 independent draws: 0.05 is seven of their standard deviations.
        assert deviation / spec.std == pytest.approx(1, abs=0.05), name


def test_deviations_are_those_of_gpt_neox() -> None:
    tensors = block_tensors(config(width=64, heads=4, depth=16))
    for name in ("qkv_weight", "up_weight"):
        assert tensors[name].std == pytest.approx((2 / (5 * 64)) ** 0.5)
    for name in ("out_weight", "down_weight"):
        assert tensors[name].std == pytest.approx(2 / 16 / 64**0.5)
    assert all(spec.std == 0 for name, spec in tensors.items() if "norm" in name or "bias" in name)


@pytest.mark.parametrize("kind", ["smooth_mlp", "none"])
def test_norms_start_at_one_and_biases_at_zero_at_every_time(kind: str) -> None:
    for name, tensor in weights_at(Hypernetwork(config(kind, 4)), 7).items():
        if name in NORMS:
            assert torch.equal(tensor, torch.ones_like(tensor))
        elif name.endswith("bias"):
            assert torch.equal(tensor, torch.zeros_like(tensor))


def test_weights_are_the_mixed_sets() -> None:
    hypernetwork = tiny_model(size=3).hypernetwork
    times = torch.rand(5)
    with torch.no_grad():
        coefficients = hypernetwork.basis(times, torch.full((5,), 0.2))
        weights = hypernetwork(times, torch.full((5,), 0.2))
    for i, (name, spec) in enumerate(hypernetwork.tensors.items()):
        sets = getattr(hypernetwork, name).detach()
        assert sets.shape == (3, *spec.shape)
        expected = torch.stack(
            [spec.mean + sum(coefficients[i, m, k] * sets[k] for k in range(3)) for m in range(5)]
        )
        torch.testing.assert_close(weights[name], expected, rtol=1e-5, atol=1e-6)


def test_none_basis_gives_exactly_the_stored_sets() -> None:
    hypernetwork = tiny_model("none", 4).hypernetwork
    layers_of = {2: [1, 3], 4: [0, 1, 2, 3], 8: [0, 0, 1, 1, 2, 2, 3, 3], 3: [0, 2, 3], 1: [2]}
    for cells, layers in layers_of.items():
        for name, tensor in weights_at(hypernetwork, cells).items():
            stored = getattr(hypernetwork, name).detach()[layers]
            assert torch.equal(tensor, stored + 1 if name in NORMS else stored), (cells, name)


def test_every_weight_set_is_trained_by_every_batch() -> None:
    model = tiny_model(size=4)
    weights = model.depth_weights(2)
    sum(tensor.square().sum() for tensor in weights.values()).backward()
    for name in model.hypernetwork.tensors:
        gradient = getattr(model.hypernetwork, name).grad
        assert (gradient.flatten(1).norm(dim=1) > 0).all(), name


def test_all_times_at_once_equal_one_time_at_a_time() -> None:
    model = tiny_model()
    attach_adapter(model, rank=2)
    times, widths = torch.rand(6), torch.full((6,), 1 / 6)
    together = model.hypernetwork(times, widths)
    for i in range(6):
        for name, tensor in model.hypernetwork(times[i : i + 1], widths[i : i + 1]).items():
            torch.testing.assert_close(tensor[0], together[name][i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "size"), [("smooth_mlp", 1), ("smooth_mlp", 4), ("none", 4)])
def test_depth_parameters_counts_what_is_stored(kind: str, size: int) -> None:
    shape = config(kind, size)
    assert depth_parameters(shape) == sum(p.numel() for p in Hypernetwork(shape).parameters())


@pytest.mark.parametrize("kind", ["smooth_mlp", "linear", "fourier_mlp"])
def test_deviation_is_that_of_the_tensor_for_every_basis(kind: str) -> None:
    shape = config(kind, 5, width=64, heads=4, depth=8)
    weights = [weights_at(Hypernetwork(shape), 8) for _ in range(4)]
    for name, spec in block_tensors(shape).items():
        if spec.std:
            deviation = torch.cat([w[name].flatten() for w in weights]).std()
            assert float(deviation) / spec.std == pytest.approx(1, abs=0.08), name


@pytest.mark.parametrize(
    ("width", "heads", "depth", "size", "millions", "ordinary"),
    # The published settings: PAPER, "Sizes". Theirs is W(t) from T = K − 1 embedding dimensions.
    [
        (768, 12, 12, 21, 188.3, 124.4),
        (1024, 16, 24, 49, 669.8, 354.8),
        (1024, 16, 24, 97, 1274.5, 354.8),
        (1280, 20, 36, 97, 1975, 774.0),
    ],
)
def test_published_models_have_the_published_size(
    width: int, heads: int, depth: int, size: int, millions: float, ordinary: float
) -> None:
    shape = ModelConfig(
        flavour="paper",
        width=width,
        heads=heads,
        depth=depth,
        basis=BasisConfig(kind="fourier_mlp", size=size),
        vocabulary_size=50257,
        context_length=1024,
    )
    # 0.1 %: theirs shares one MLP between a matrix and its bias, and gives biases no constant term.
    assert parameter_count(shape) / 1e6 == pytest.approx(millions, rel=1e-3)
    assert parameter_count(shape.ordinary()) / 1e6 == pytest.approx(ordinary, abs=0.06)
