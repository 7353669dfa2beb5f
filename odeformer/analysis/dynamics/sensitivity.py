"""How much each token's state at the end moves with each token of the input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import vjp, vmap

from odeformer.analysis.flow import differentiable_attention, flow_of
from odeformer.depth import Grid
from odeformer.model import Odeformer

PROBES_AT_ONCE = 16


def pair_sensitivity(
    model: Odeformer,
    input_ids: Tensor,
    outputs: Sequence[int] | None = None,
    probes: int | None = None,
    depth: int | Grid | None = None,
) -> Tensor:
    """Frobenius norm of ∂ x_j(1) / ∂ x_k(0) for outputs j and all inputs k of one sequence.

    Args:
        input_ids: [1, tokens].
        outputs: Positions j; all by default.
        probes: Number of random directions for Hutchinson's estimate ‖J‖² = E ‖Jᵀ v‖², v standard normal. Its
            relative error is about 1 / √(2 · probes · effective rank of J). By default the norm is exact,
            from all ``width`` directions.

    Returns:
        [outputs, tokens]; 0 where k comes after j.
    """
    length, width = input_ids.shape[1], model.config.width
    positions = range(length) if outputs is None else outputs
    x = model.embed(input_ids).detach()
    if probes is None:
        directions, scale = torch.eye(width, dtype=x.dtype, device=x.device), 1.0
    else:
        generator = torch.Generator().manual_seed(0)
        directions = torch.randn(probes, width, generator=generator, dtype=x.dtype).to(x.device)
        scale = 1 / probes

    rows = []
    with differentiable_attention():
        for position in positions:
            # Attention is causal: the sequence may end here, which halves the work on average.
            prefix = x[:, : position + 1]
            pull = vjp(flow_of(model, position + 1, depth).end, prefix)[1]
            squares = x.new_zeros(length)
            for few in directions.split(PROBES_AT_ONCE):
                cotangents = x.new_zeros(len(few), *prefix.shape)
                cotangents[:, 0, position] = few
                (pulled,) = vmap(pull)(cotangents)
                squares[: position + 1] += pulled.square().sum(dim=(0, 1, 3)).detach()
            rows.append((scale * squares).sqrt())
    return torch.stack(rows)
