"""The right-hand side of the ODE for torchdiffeq: dx/dt as a function of t and x."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from odeformer.field.parts import Field
from odeformer.hypernetwork import WeightSource


def autocast_state(device: str) -> dict[str, Any]:
    """Arguments that restore the current ``torch.autocast`` in a backward pass, which runs outside it."""
    return {
        "device_type": device,
        "enabled": torch.is_autocast_enabled(device),
        "dtype": torch.get_autocast_dtype(device),
    }


class RightHandSide:
    """The function (t, x) → speed · field(x; W(t)), which generates W(t) at every call."""

    def __init__(self, field: Field, hypernetwork: WeightSource, x0: Tensor) -> None:
        self.field, self.hypernetwork = field, hypernetwork
        self.h = torch.zeros(())
        """The cell width for step-aware coefficients; 0 without cells, since the ODE is the limit h → 0."""
        self.autocast = autocast_state(x0.device.type)

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        # Never bfloat16: its spacing near 1 is wider than a cell of a deep solve.
        at = t.reshape(1).to(torch.float64 if x.dtype == torch.float64 else torch.float32)
        with torch.autocast(**self.autocast):
            weights = self.hypernetwork(at, self.h.to(at).reshape(1))
            slope = self.field(x, {name: stacked[0] for name, stacked in weights.items()})
        return (self.field.speed * slope).to(x.dtype)
