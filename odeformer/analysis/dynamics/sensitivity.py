"""How much an answer, or a token's state at the end, moves with each token of the input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import vjp, vmap

from odeformer.analysis.flow import differentiable_attention, flow_of
from odeformer.depth import Grid
from odeformer.model import Odeformer

PROBES_AT_ONCE = 16


def answer_sensitivity(
    model: Odeformer, input_ids: Tensor, answer: Tensor, depth: int | Grid | None = None
) -> Tensor:
    """‖∂ logit of the answer / ∂ x_k(0)‖ for every token k: [batch, tokens].

    Args:
        input_ids: the prompts, [batch, tokens], int64; the answer is the token that follows the last one.
        answer: its id for each prompt, [batch].
    """
    flow = flow_of(model, input_ids.shape[1], depth)
    x = model.embed(input_ids).detach().requires_grad_()
    with torch.enable_grad(), differentiable_attention():
        logits = model.unembed(flow.end(x)[:, -1]).gather(1, answer[:, None])
        (gradient,) = torch.autograd.grad(logits.sum(), x)
    return gradient.norm(dim=-1)


def pair_sensitivity(
    model: Odeformer,
    input_ids: Tensor,
    outputs: Sequence[int] | None = None,
    probes: int | None = None,
    depth: int | Grid | None = None,
    seed: int = 0,
) -> Tensor:
    """The Frobenius norm of ∂ x_j(1) / ∂ x_k(0) for outputs j and all inputs k of one sequence.

    Args:
        input_ids: [1, tokens].
        outputs: positions j; all when not given.
        probes: estimate it from so many random directions, ‖J‖² = E ‖Jᵀ v‖² for standard normal v
            (Hutchinson 1990); exactly, from all ``width`` of them, when not given. A norm is then off by
            about 1 / √(2 · probes · effective rank of J) of itself.

    Returns:
        [outputs, tokens]; 0 where k comes after j.
    """
    length, width = input_ids.shape[1], model.config.width
    positions = list(range(length)) if outputs is None else list(outputs)
    x = model.embed(input_ids).detach()
    if probes is None:
        directions, scale = torch.eye(width, dtype=x.dtype, device=x.device), 1.0
    else:
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(probes, width, generator=generator, dtype=x.dtype).to(x.device)
        scale = 1 / probes
    rows = []
    with differentiable_attention():
        for position in positions:
            # No token sees those behind it: the text may end here, which on average halves the work.
            begin = x[:, : position + 1]
            pull = vjp(flow_of(model, position + 1, depth).end, begin)[1]
            squares = x.new_zeros(length)
            for few in directions.split(PROBES_AT_ONCE):
                cotangents = x.new_zeros(len(few), *begin.shape)
                cotangents[:, 0, position] = few
                (pulled,) = vmap(pull)(cotangents)
                squares[: position + 1] += pulled.square().sum(dim=(0, 1, 3)).detach()
            rows.append((scale * squares).sqrt())
    return torch.stack(rows)
