import math

import numpy as np
import pytest
import torch
from tiny_models import config, ids
from torch import Tensor, nn

from odeformer.basis.smooth_mlp import SmoothMLP
from odeformer.config import BasisConfig
from odeformer.depth import uniform_grid
from odeformer.hypernetwork import build_basis
from odeformer.model import Odeformer
from odeformer.solvers import SOLVERS, node_times


class HighFrequencyMLP(nn.Module):
    """The control: coefficients as published, an MLP on sinusoids of up to 1000 t."""

    def __init__(self, tensors: int, size: int) -> None:
        super().__init__()
        self.inner = trained(SmoothMLP(tensors, size))
        self.angles = torch.logspace(0, 3, self.inner.frequencies)

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        angles = t[:, None] * self.angles.to(t)
        return self.inner.mlp(torch.cat([2 * t[:, None] - 1, angles.sin(), angles.cos()], dim=1))


def midpoints(cells: int) -> Tensor:
    return torch.tensor(node_times(SOLVERS["euler"], uniform_grid(cells))[0])


def trained(basis: SmoothMLP) -> SmoothMLP:
    """With an MLP that does not start at zero, as training leaves it."""
    nn.init.normal_(basis.mlp.second_weight, std=0.2)
    nn.init.normal_(basis.mlp.second_bias, std=0.2)
    return basis


def at(basis: nn.Module, t: Tensor) -> Tensor:
    with torch.no_grad():
        return basis(t, torch.full_like(t, 1 / len(t)))


def test_smooth_mlp_equals_the_formula_one_time_and_tensor_at_a_time() -> None:
    basis = trained(SmoothMLP(tensors=3, size=2)).double()
    t = torch.rand(5, dtype=torch.float64)
    coefficients = at(basis, t)
    assert coefficients.shape == (3, 5, 2)
    for tensor in range(3):
        for i, moment in enumerate(t.tolist()):
            waves = [f(math.pi * j * moment) for f in (math.sin, math.cos) for j in (1, 2, 3, 4)]
            features = torch.tensor([2 * moment - 1, *waves], dtype=torch.float64)
            z = features @ basis.mlp.first_weight[tensor] + basis.mlp.first_bias[tensor, 0]
            hidden = z * torch.sigmoid(z)
            expected = hidden @ basis.mlp.second_weight[tensor] + basis.mlp.second_bias[tensor, 0]
            # Two cells with middles at 1/4 and 3/4, Gaussians of width 0.3.
            bumps = [math.exp(-((moment - middle) ** 2) / (2 * 0.3**2)) for middle in (0.25, 0.75)]
            expected += torch.tensor(bumps, dtype=torch.float64) / sum(bumps)
            # 1e-6: a π rounded to float32 is far below what matters, but float64 must not lose more.
            torch.testing.assert_close(coefficients[tensor, i], expected, rtol=1e-6, atol=1e-6)


def high_energy(basis: nn.Module, above: int) -> float:
    """The share of the variation of c(t) in half-waves cos(πjt) with j > ``above``."""
    samples = 1024
    t = (torch.arange(samples, dtype=torch.float64) + 0.5) / samples
    waves = torch.cos(math.pi * t[:, None] * torch.arange(samples))
    waves = waves / waves.norm(dim=0)
    energy = torch.einsum("imk,mj->ikj", at(basis.double(), t), waves).square().sum(dim=(0, 1))
    return float(energy[above + 1 :].sum() / energy[1:].sum())


@pytest.mark.parametrize("size", [1, 4, 8])
def test_smooth_mlp_has_next_to_no_energy_above_its_harmonics(size: int) -> None:
    assert high_energy(trained(SmoothMLP(12, size)), above=8) < 0.01
    assert high_energy(HighFrequencyMLP(12, size), above=8) > 0.2  # the measure would notice


@pytest.mark.parametrize("size", [1, 4, 8, 12])
def test_a_fresh_smooth_mlp_has_each_part_of_the_way_led_by_its_own_set(size: int) -> None:
    c = at(SmoothMLP(2, size), midpoints(size))
    torch.testing.assert_close(c.sum(dim=2), torch.ones(2, size))
    assert torch.equal(c.argmax(dim=2), torch.arange(size).expand(2, size))
    assert c.min() >= 0


def test_smooth_mlp_between_grid_points_is_what_the_grid_points_say() -> None:
    def surprise(basis: nn.Module) -> float:
        """Error of interpolating the cell midpoints of 16 cells by a cubic at the cells' edges."""
        on_grid = at(basis, midpoints(16))
        between = at(basis, torch.arange(2, 15) / 16)
        p = [on_grid[:, i : i + 13] for i in range(4)]
        cubic = (9 * (p[1] + p[2]) - p[0] - p[3]) / 16
        return float((between - cubic).norm() / (on_grid - on_grid.mean(dim=1, keepdim=True)).norm())

    assert surprise(trained(SmoothMLP(12, 4))) < 0.02
    assert surprise(HighFrequencyMLP(12, 4)) > 0.3


def test_twice_the_depth_changes_the_logits_little_at_initialization() -> None:
    def change(model: Odeformer) -> float:
        with torch.no_grad():
            once, twice = (model(ids(), depth=n).logits for n in (16, 32))
        return float((twice - once).norm() / once.norm())

    smooth, control = [], []
    for seed in range(3):
        torch.manual_seed(seed)
        model = Odeformer(config(size=4, width=32, depth=16, prelude=0))
        trained(model.hypernetwork.basis)
        smooth.append(change(model))
        basis = HighFrequencyMLP(12, 4)
        basis.inner = model.hypernetwork.basis  # the same coefficient network, other frequencies
        model.hypernetwork.basis = basis
        control.append(change(model))
    assert max(smooth) < 0.4
    assert all(other > 2 * own for own, other in zip(smooth, control, strict=True))


@pytest.mark.parametrize("depth", [1, 2, 4, 7, 22, 38, 48, 64])
def test_none_basis_takes_the_layer_whose_interval_holds_the_midpoint(depth: int) -> None:
    """Also where a midpoint is the edge of an interval: exact integer arithmetic decides."""
    basis = build_basis(BasisConfig(kind="none", size=depth), tensors=2, depth=depth)
    for cells in range(1, 3 * depth + 1):
        expected = [(2 * i + 1) * depth // (2 * cells) for i in range(cells)]
        coefficients = at(basis, midpoints(cells))
        assert coefficients.shape == (2, cells, depth)
        assert torch.equal(coefficients.sum(dim=2), torch.ones(2, cells))
        assert coefficients.argmax(dim=2).tolist() == [expected, expected], f"{cells} cells"


@pytest.mark.parametrize("depth", [4, 22, 47])
def test_none_basis_gives_each_cell_its_own_layer_from_its_left_edge_on(depth: int) -> None:
    basis = build_basis(BasisConfig(kind="none", size=depth), tensors=1, depth=depth)
    times, _ = node_times(SOLVERS["midpoint"], uniform_grid(depth))
    layers = at(basis, torch.tensor(times)).argmax(dim=2)[0]
    assert layers.tolist() == [layer for layer in range(depth) for _ in range(2)]


def test_none_basis_holds_at_both_ends() -> None:
    basis = build_basis(BasisConfig(kind="none", size=4), tensors=1, depth=4)
    assert at(basis, torch.tensor([0.0, 1.0])).argmax(dim=2).tolist() == [[0, 3]]


def test_coefficients_keep_the_precision_of_t() -> None:
    for kind, size in (("smooth_mlp", 3), ("none", 4)):
        basis = build_basis(BasisConfig.model_validate({"kind": kind, "size": size}), tensors=2, depth=4)
        assert at(basis, midpoints(4)).dtype == torch.float32
        assert at(basis.double(), midpoints(4).double()).dtype == torch.float64


def made(kind: str, size: int, depth: int = 4, **options: object) -> nn.Module:
    config = BasisConfig.model_validate({"kind": kind, "size": size, **options})
    return build_basis(config, tensors=2, depth=depth)


@pytest.mark.parametrize("size", [1, 2, 5, 12])
def test_linear_is_the_identity_on_its_own_midpoints_and_interpolates_between(size: int) -> None:
    basis = made("linear", size)
    torch.testing.assert_close(at(basis, midpoints(size)), torch.eye(size).expand(2, size, size))
    t = torch.linspace(0, 1, 41, dtype=torch.float64)
    knots = [(k + 0.5) / size for k in range(size)]
    for k in range(size):
        values = np.interp(t.numpy(), knots, np.eye(size)[k])
        torch.testing.assert_close(at(basis, t)[0, :, k], torch.from_numpy(values))


def test_fourier_mlp_is_the_published_formula_at_the_cells_right_ends() -> None:
    basis = made("fourier_mlp", 5).double()
    coefficients = at(basis, midpoints(3).double())
    assert torch.equal(coefficients[..., 0], torch.ones(2, 3, dtype=torch.float64))
    for cell in range(3):
        t = (cell + 1) / 3
        frequencies = [10000 ** (-j / 128) for j in range(128)]
        phases = [1000 * t * w for w in frequencies]
        features = torch.tensor([t, *map(math.sin, phases), *map(math.cos, phases)], dtype=torch.float64)
        mlp = basis.mlp
        z = features @ mlp.first_weight[0] + mlp.first_bias[0, 0]
        expected = (z * torch.sigmoid(z)) @ mlp.second_weight[0] + mlp.second_bias[0, 0]
        # The midpoints are float32 numbers, and 1000 t multiplies their rounding.
        torch.testing.assert_close(coefficients[0, cell, 1:], expected, rtol=0, atol=1e-3)


def test_constant_is_the_same_at_every_time() -> None:
    assert torch.equal(at(made("constant", 1), torch.rand(6)), torch.ones(2, 6, 1))
