"""The right-hand side of the ODE as torchdiffeq calls it: dx/dt at a time and a state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from odeformer.field.parts import Field
from odeformer.hypernetwork import WeightSource


def autocast_state(device: str) -> dict[str, Any]:
    """The arguments of a ``torch.autocast`` that does what is done now, for a backward pass outside of it."""
    return {
        "device_type": device,
        "enabled": torch.is_autocast_enabled(device),
        "dtype": torch.get_autocast_dtype(device),
    }


class RightHandSide:
    """(t, x) → speed · field(x; W(t)), with W(t) made at every call."""

    def __init__(self, field: Field, hypernetwork: WeightSource, x0: Tensor) -> None:
        self.field, self.hypernetwork = field, hypernetwork
        self.h = torch.zeros(())
        """The width of the cell, which step-aware coefficients see; 0 where there are no cells: the ODE is
        the limit of small ones."""
        self.autocast = autocast_state(x0.device.type)

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        # t is never bf16, whose steps near 1 are wider than a cell of a deep solve.
        at = t.reshape(1).to(torch.float64 if x.dtype == torch.float64 else torch.float32)
        with torch.autocast(**self.autocast):
            weights = self.hypernetwork(at, self.h.to(at).reshape(1))
            slope = self.field(x, {name: stacked[0] for name, stacked in weights.items()})
        return (self.field.speed * slope).to(x.dtype)
