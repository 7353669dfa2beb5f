"""The vectors of a model: what method ``norms`` trains, a few thousandths of all parameters."""

from __future__ import annotations

from torch import nn

from odeformer.model import Odeformer


def vectors(model: Odeformer) -> dict[str, nn.Parameter]:
    """Norm gains and biases of the block, as weight sets [K, ...], and of the final norm; by their names.

    W(t) of the matrices needs no gradient when only these are trained.
    """
    found = {
        f"hypernetwork.{name}": getattr(model.hypernetwork, name)
        for name, spec in model.hypernetwork.tensors.items()
        if len(spec.shape) == 1
    }
    return found | {f"final_norm.{name}": p for name, p in model.final_norm.named_parameters()}
