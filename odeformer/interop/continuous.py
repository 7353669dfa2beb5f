"""Fit of a continuous-depth model to the layers of an ordinary transformer."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from odeformer.config import BasisConfig
from odeformer.interop.materialize import Ordinary
from odeformer.model import Odeformer, SolveOptions

LARGEST_CONDITION = 1e4
"""Largest condition number of the coefficients through which float32 weights can be recovered."""


@dataclass(frozen=True)
class Fit:
    """The quality of a fit of K weight sets to L layers."""

    condition: float
    """Condition number of the L × K matrix of coefficients, the maximum over tensors."""
    error: float
    """Relative error ‖W − fit‖ / ‖W‖ over all tensors of all layers; 0 up to rounding at K = L."""


@torch.no_grad()
def continuous(ordinary: Ordinary, basis: BasisConfig) -> tuple[Odeformer, Fit]:
    """The model of depth D = L whose W(t) at the cells' midpoints best approximates the given L layers.

    It is a least squares fit of each tensor: with C [L, K] the initial coefficients at the midpoints, the
    weight sets are B = C⁺ (W − mean). At K = L, C⁺ is C⁻¹, and at N = L the model is the same transformer.

    Args:
        ordinary: L layers.
        basis: the basis of the model; learned coefficient functions have their initial values.

    Raises:
        ValueError: for ill-conditioned coefficients.
    """
    config = ordinary.config.model_copy(update={"basis": basis, "prelude": None})
    config = type(config).model_validate(config.model_dump())  # check the shape with the new basis

    # Whatever is drawn, such as learned coefficient functions, is the same at each call.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Odeformer(config)
    depth = config.depth
    midpoints = torch.tensor([(i + 0.5) / depth for i in range(depth)])
    coefficients = model.hypernetwork.basis(midpoints, torch.full_like(midpoints, 1 / depth)).double()
    condition = float(torch.linalg.cond(coefficients).max())
    if not condition < LARGEST_CONDITION:
        raise ValueError(
            f"basis {basis.kind!r} with K = {basis.size} at {depth} layers has condition {condition:.2g}, "
            f"above {LARGEST_CONDITION:g}: rounding would lose the layers; take another basis or a smaller K"
        )

    model.load_state_dict(ordinary.outer, strict=False)
    residual = total = 0.0
    for c, (name, spec) in zip(coefficients, model.hypernetwork.tensors.items(), strict=True):
        target = ordinary.layers[name].double().flatten(1) - spec.mean
        sets = torch.linalg.lstsq(c, target, driver="gelsd").solution
        getattr(model.hypernetwork, name).copy_(sets.view(basis.size, *spec.shape))
        residual += float((c @ sets - target).square().sum())
        total += float((target + spec.mean).square().sum())
    model.options = SolveOptions(ordinary.solver)
    return model.eval(), Fit(condition, (residual / total) ** 0.5)
