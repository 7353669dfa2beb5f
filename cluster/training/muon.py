"""Muon: DeepSpeed's optimizer, which orthogonalizes the updates of matrices, with AdamW for the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

from cluster.settings import OptimSettings


class Muon(MuonWithAuxAdam):
    """DeepSpeed's Muon, which makes no step without gradients; DeepSpeed's would take them as zeros."""

    def step(self, closure: Callable[[], float] | None = None, step_id: int | None = None) -> float | None:
        """Make a step, unless no parameter has a gradient."""
        if all(parameter.grad is None for group in self.param_groups for parameter in group["params"]):
            return None
        loss: float | None = super().step(closure, step_id)
        return loss


def build_muon(groups: list[dict[str, Any]], optim: OptimSettings) -> Muon:
    """Muon for the groups with ``use_muon``, and torch's AdamW for the others.

    The weight sets of a tensor are one parameter [K, out, in], of which each set is orthogonalized by itself.
    """
    for group in groups:
        group["lr"] = optim.learning_rate * group["rate"]
        group.setdefault("use_muon", False)
        if group["use_muon"]:
            group |= {"momentum": optim.muon_momentum, "ns_method": "gram"}
        else:
            group |= {"betas": optim.betas, "eps": 1e-8}
        for parameter in group["params"]:
            parameter.use_muon = group["use_muon"]  # ZeRO looks at this
    return Muon(groups, adam_optimizer=torch.optim.AdamW)
