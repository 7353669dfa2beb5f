"""Given layers as a continuous-depth model: K weight sets whose mixture goes through them, or near them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from odeformer.config import BasisConfig
from odeformer.interop.materialise import Ordinary
from odeformer.model import Odeformer, SolveOptions

LARGEST_CONDITION = 1e4
"""Of the coefficients at the layers' times: what float32 weights can be had back through."""


@dataclass(frozen=True)
class Fit:
    """How near K weight sets come to given layers."""

    condition: float
    """Of the L × K matrix of coefficients, the worst of all tensors."""
    error: float
    """‖W − fit‖ / ‖W‖ over all tensors of all layers: 0 up to rounding at K = L."""


@torch.no_grad()
def continuous(ordinary: Ordinary, basis: BasisConfig, prelude: int | None = None) -> tuple[Odeformer, Fit]:
    """The model of depth D = L whose W at the cells' midpoints is nearest to the given L layers.

    Least squares for each tensor: with C [L, K] the fresh coefficient functions at the midpoints, the
    weight sets are B = C⁺ (W − mean). At K = L that is C⁻¹, and N = L gives the very same transformer.

    Args:
        ordinary: L layers.
        basis: K sets under these coefficient functions; learned ones as they start.
        prelude: the layers that stay whole steps at any depth; the model's default when not given.

    Raises:
        ValueError: for coefficients that are too ill-conditioned, or with ``low_rank``, whose nearest sets
            are no linear problem.
    """
    if basis.low_rank is not None:
        raise ValueError("basis.low_rank: layers cannot be fitted by it, only by whole weight sets")
    config = ordinary.config.model_copy(update={"basis": basis, "prelude": prelude})
    config = type(config).model_validate(config.model_dump())  # with this basis it may be no valid shape
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
    missed = total = 0.0
    for c, (name, spec) in zip(coefficients, model.hypernetwork.tensors.items(), strict=True):
        wanted = ordinary.layers[name].double().flatten(1) - spec.mean
        sets = torch.linalg.lstsq(c, wanted, driver="gelsd").solution
        getattr(model.hypernetwork, name).copy_(sets.view(basis.size, *spec.shape))
        missed += float((c @ sets - wanted).square().sum())
        total += float((wanted + spec.mean).square().sum())
    model.options = SolveOptions(ordinary.solver)
    return model.eval(), Fit(condition, (missed / total) ** 0.5)
