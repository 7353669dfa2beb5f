"""Norm gains and biases, which the fine-tuning method ``norms`` trains: a few thousandths of a model."""

from __future__ import annotations

from torch import nn

from odeformer.model import Odeformer


def vectors(model: Odeformer) -> dict[str, nn.Parameter]:
    """Norm gains and biases by name: those of the block, as weight sets [K, ...], and of the final norm.

    When only these are trained, the generated matrices need no gradient.
    """
    in_block = {
        f"hypernetwork.{name}": getattr(model.hypernetwork, name)
        for name, spec in model.hypernetwork.tensors.items()
        if len(spec.shape) == 1
    }
    return in_block | {f"final_norm.{name}": p for name, p in model.final_norm.named_parameters()}
