"""The right-hand side of the ODE as torchdiffeq calls it: dx/dt at a time and a state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from odeformer.field import Field
from odeformer.hypernetwork import WeightSource


class RightHandSide:
    """(t, x) → speed · field(x; W(t)), with W(t) made at every call."""

    def __init__(self, field: Field, hypernetwork: WeightSource, x0: Tensor) -> None:
        self.field, self.hypernetwork = field, hypernetwork
        self.width = torch.zeros(())
        """Of the cell, which step-aware coefficients see; 0 where there are no cells: the ODE is the limit
        of small ones."""
        device = x0.device.type
        # torchdiffeq's backward pass runs outside of the autocast region that the forward one ran in.
        self.autocast: dict[str, Any] = {
            "device_type": device,
            "enabled": torch.is_autocast_enabled(device),
            "dtype": torch.get_autocast_dtype(device),
        }

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        # t is never bf16, whose steps near 1 are wider than a cell of a deep solve.
        at = t.reshape(1).to(torch.float64 if x.dtype == torch.float64 else torch.float32)
        with torch.autocast(**self.autocast):
            weights = self.hypernetwork(at, self.width.to(at).reshape(1))
            slope = self.field(x, {name: stacked[0] for name, stacked in weights.items()})
        return (self.field.speed * slope).to(x.dtype)
