"""Attribution of all predictions of a text to its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.func import vjp, vmap

from odeformer.analysis.answers.attribution import neutral_state
from odeformer.analysis.flow import differentiable_attention, flow_of
from odeformer.depth import Grid
from odeformer.model import Odeformer

OUTPUTS_AT_ONCE = 16


def heat_map(
    model: Odeformer,
    input_ids: Tensor,
    outputs: Sequence[int],
    answers: Tensor,
    depth: int | Grid | None = None,
    points: int = 8,
) -> Tensor:
    """Integrated gradients of chosen logits of one text.

    They equal those of :func:`odeformer.analysis.answers.attribution.integrated_gradients` for each of its
    prefixes. Attention is causal, so all predictions share the states on the path from the neutral state to
    the text; each prediction costs a backward pass.

    Args:
        input_ids: [1, tokens].
        outputs: Positions j, in ascending order.
        answers: One token id for each position.
        points: Number of Gauss–Legendre nodes on the path.

    Returns:
        Non-negative scores [outputs, tokens] of each token k for the logit of ``answers[i]`` after position
        ``outputs[i]``; 0 where k comes after that position.
    """
    x = model.embed(input_ids).detach()
    neutral = neutral_state(model, input_ids).expand_as(x)
    nodes, weights = np.polynomial.legendre.leggauss(points)
    scores, flow = x.new_zeros(len(outputs), x.shape[1]), flow_of(model, x.shape[1], depth)
    for rows in torch.arange(len(outputs)).split(OUTPUTS_AT_ONCE):
        positions = torch.tensor(outputs)[rows]
        length = int(positions[-1]) + 1  # later tokens have no effect
        short = flow._replace(
            cell_maps=tuple(replace(step, field=step.field.part(0, length)) for step in flow.cell_maps)
        )
        start = neutral[:, :length]
        path, total = x[:, :length] - start, x.new_zeros(len(rows), length, x.shape[2])

        def logits(x: Tensor) -> Tensor:
            chosen = model.unembed(short.end(x)[0, positions])  # noqa: B023 (called in this iteration only)
            return chosen.gather(1, answers[rows, None])[:, 0]  # noqa: B023

        with differentiable_attention():
            for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
                pull = vjp(logits, start + float(node) * path)[1]
                (gradients,) = vmap(pull)(torch.eye(len(rows)).to(x))
                total += float(weight) * gradients[:, 0].detach()
        scores[rows, :length] = (total * path).sum(-1).abs()
    return scores
